"""Time and memory of the backbone compared with other libraries; mmdet and pycocotools are not needed.

    OMP_NUM_THREADS=1 python tools/dev/bench_backbone.py tiny --pass training --shape 512 512

mmpretrain cannot be imported with the current versions of mmdet's requirements, so the peers have their
own environment (`make peers`). The options are those of `tools/benchmark.py speed`, which also measures whole
models.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from convnext_dense.mm.bench.speed_command import add_arguments, speed
from convnext_dense.mm.errors import one_line_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    args = parser.parse_args()
    with one_line_errors():
        speed(args)


if __name__ == "__main__":
    main()
