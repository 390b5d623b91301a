"""Measure recipes against the paper's tables.

complexity  parameters and multiply-accumulates, counted on the meta device
"""

import argparse
import json

from convnext_dense.complexity import format_table
from convnext_dense.mm.complexity import compare, countable_rows
from convnext_dense.mm.errors import one_line_errors


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_complexity(subcommands)
    args = parser.parse_args()
    with one_line_errors():
        args.run(args)


def add_complexity(subcommands: argparse._SubParsersAction) -> None:
    parser = subcommands.add_parser("complexity", help="parameters and MACs beside the paper's")
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help="rows, recipes or config files (default: all of the tables)"
    )
    parser.add_argument(
        "--shape",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="image size (default: that of the paper's count)",
    )
    parser.add_argument("--json", action="store_true", help="print records instead of a table")
    parser.set_defaults(run=complexity)


def complexity(args: argparse.Namespace) -> None:
    shape = tuple(args.shape) if args.shape else None
    rows = [compare(name, shape) for name in args.rows or countable_rows()]
    print(json.dumps([row.record() for row in rows], indent=1) if args.json else format_table(rows))


if __name__ == "__main__":
    main()
