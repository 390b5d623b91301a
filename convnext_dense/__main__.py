"""``python -m convnext_dense SUBCOMMAND``, for torchrun and for machines without scripts on their path."""

from convnext_dense.cli import main

if __name__ == "__main__":
    main()
