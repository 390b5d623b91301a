"""ConvNeXt in place of any backbone of mmdet and mmseg.

``backbone`` (the swap), ``probe`` (what a backbone returns), ``forms`` (how a ConvNeXt takes its place),
``channels`` (entries that depend on it), ``consequences`` (group norms, unread levels, teachers), ``heads``
(those that stay in float32), ``smoke_test`` (a step and a prediction, on images of ``synthetic`` and with the
text encoder of ``language``), ``write`` (a readable config).

The survey of all configs of both toolboxes: ``structures`` (which have the same model), ``verdict`` (one
config, judged), ``survey`` (processes and records), ``survey_key`` (code and versions for which a verdict
holds), ``survey_report`` (the page).
"""
