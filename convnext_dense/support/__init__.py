"""Room of helpers that know nothing of ConvNeXt.

``files`` (atomic writes), ``optional_packages`` (one gate for packages that may be absent), ``seeding``,
``command_line`` (which command to name), ``system`` (versions, devices, memory).
"""
