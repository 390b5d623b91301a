"""ConvNeXt in place of any backbone of mmdet and mmseg.

``backbone`` (the swap), ``channels`` (entries that depend on it), ``heads`` (those that stay in float32),
``probe`` (what a backbone returns), ``smoke_test`` (a step and a prediction), ``write`` (a readable
config), ``survey`` and ``survey_report`` (all configs of both toolboxes).
"""
