"""Commands: one module for each subcommand of ``convnext-dense``, with its options and ``main``.

They may import every other folder; only :mod:`convnext_dense.cli` and ``tools/`` import them.
"""
