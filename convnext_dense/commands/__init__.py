"""Room of the commands: a module for each subcommand of ``convnext-dense``, with its options and ``main``.

They may import every other room, and nothing but :mod:`convnext_dense.cli` and ``tools/`` imports them.
"""
