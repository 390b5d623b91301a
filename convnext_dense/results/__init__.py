"""Published and measured numbers.

``paper`` (the published tables as data), ``records`` (measurements, and their difference from the paper),
``tables`` (Markdown of both), ``reproduction`` (released checkpoints against the published figures).
"""
