#!/usr/bin/env python
"""Make the demo's data: synthetic scenes of shapes in COCO's and ADE20K's layout."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from convnext_dense.data.synthetic import make_shapes


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("data/shapes"), help="folder to make")
    parser.add_argument("--train", type=int, default=1000, help="training scenes")
    parser.add_argument("--val", type=int, default=120, help="validation scenes")
    parser.add_argument("--size", type=int, default=160, help="side of the images in pixels")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        spec = make_shapes(args.out, args.train, args.val, args.size, args.seed)
    except (FileExistsError, ValueError) as error:
        print(f"make_shapes: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: {spec.train} training and {spec.val} validation scenes of {spec.size} pixels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
