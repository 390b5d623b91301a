"""Checkpoints for other code bases: python tools/convert_checkpoint.py IN OUT --to TARGET"""

from convnext_dense.commands.convert import main

if __name__ == "__main__":
    main()
