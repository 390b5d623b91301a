"""Room of helpers that know nothing of ConvNeXt.

``files`` (atomic writes), ``optional_packages`` (one gate for packages that may be absent), ``seeding``,
``system`` (versions, devices, memory), ``modules`` (of PyTorch), ``text_tables``, ``command_line`` (which
command a message names).
"""
