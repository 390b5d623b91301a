"""Helpers that do not depend on ConvNeXt.

``files`` (atomic writes), ``locks`` (between processes), ``optional_packages`` (packages that may be absent),
``seeding``, ``system`` (versions, devices, memory, busy cores), ``modules`` (PyTorch modules), ``nested``
(one walk through dicts and lists), ``text_tables``, ``windows`` (sliding windows, resizing by rows),
``command_line`` (the command that a message names), ``notes`` (lines for a log that does not exist yet).
"""
