"""Helpers that do not depend on ConvNeXt.

``files`` (atomic writes), ``optional_packages`` (packages that may be absent), ``seeding``, ``system``
(versions, devices, memory), ``modules`` (PyTorch modules), ``text_tables``, ``command_line`` (the command
that a message names).
"""
