"""Compile mmcv's operators for this environment: python tools/build_ops.py"""

from convnext_dense.commands.ops import main

if __name__ == "__main__":
    main()
