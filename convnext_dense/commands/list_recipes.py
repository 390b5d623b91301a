"""Print the names of the recipes, all or those that contain PATTERN."""

import argparse
from collections.abc import Sequence

from convnext_dense.recipes import list_configs


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pattern", nargs="?", default="", metavar="PATTERN", help="such as cascade")
    args = parser.parse_args(argv)
    names = [name for name in list_configs() if args.pattern in name]
    if not names:
        raise SystemExit(f"error: no recipe contains {args.pattern!r}")
    print(*names, sep="\n")
