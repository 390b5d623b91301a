"""Room of what can be known before a run: ``run`` tries or computes all of it and writes nothing.

``data`` (every file of every split), ``plan`` (steps and rates), ``shape`` (the largest batch),
``samples`` (the fullest images), ``steps`` (time and memory of real ones), ``weights``.
"""
