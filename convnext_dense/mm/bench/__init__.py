"""Measurements of whole models: accuracy, speed, complexity, and training under faults.

``rows`` (those that can be measured here), ``accuracy``, ``reproduce`` (the released checkpoints), ``report``
(the page about a run), ``complexity``, ``models`` (with random weights and a fixed load), ``speed`` and
``speed_command``, ``mmpretrain`` (its ConvNeXt, for comparison), ``step_profile`` (where the time goes),
``soak`` (training under faults).
"""
