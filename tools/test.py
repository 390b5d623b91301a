"""Evaluate a checkpoint: python tools/test.py CONFIG CHECKPOINT"""

from convnext_dense.commands.test import main

if __name__ == "__main__":
    main()
