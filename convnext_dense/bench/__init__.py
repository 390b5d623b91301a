"""Time, memory and multiply-adds.

``timing`` (measured side by side), ``records`` (measurements as records and tables), ``complexity``
(parameters and multiply-adds), ``compatibility`` (what is tried in each environment of the matrix).
"""
