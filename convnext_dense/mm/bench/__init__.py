"""Room of measurements of whole models: accuracy, speed, complexity, and training under faults.

``rows`` (which can be measured here), ``accuracy``, ``reproduce`` (the released checkpoints), ``report``
(the page about a run), ``complexity``, ``speed`` and ``speed_command``, ``mmpretrain`` (its ConvNeXt, to
compare with), ``step_profile`` (where the time goes), ``soak`` (training under faults).
"""
