"""Configs: changing and reading them.

``load``, ``by_name`` (a recipe as ``_base_``), ``sections`` and ``levels`` (is everything there and of the
right kind), ``inner_model`` (where the backbone is), ``toolboxes`` (what mmdet's and mmseg's own tools need),
``edit`` (one function per option of a command), ``formatted`` (the text of a config), ``startup`` and
``evaluators`` (what would stop a run at its first evaluation), ``lr_plan`` (what a recipe does to the
learning rate).
"""
