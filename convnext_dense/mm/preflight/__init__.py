"""Checks before a run: ``run`` tries or computes everything and writes nothing.

``data`` (every file of every split), ``plan`` (steps and rates), ``shape`` (the largest batch),
``samples`` (images with the most instances), ``steps`` (time and memory of real ones), ``weights``,
``threads`` (many files at once).
"""
