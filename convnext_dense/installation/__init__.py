"""Installation: mmcv with compiled operators for this environment. Imports no toolbox.

- :mod:`plan` which mmcv to compile, from what is installed
- :mod:`wheel` compiles it against the installed torch and keeps the wheel
- :mod:`exchange` installs the wheel in place of what was there, or takes that back
- :mod:`progress` what is shown of a compilation, and the remedy for one that failed
- :mod:`pip` calls of this environment's pip
"""
