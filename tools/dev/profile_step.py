"""Time of a detector's training step or evaluation, part by part.

    OMP_NUM_THREADS=1 python tools/dev/profile_step.py mask_rcnn/convnext_t_3x --data-root data/coco --steps 2
    OMP_NUM_THREADS=1 python tools/dev/profile_step.py cascade/convnext_t_3x --evaluate --data-root data/coco

CPU seconds per image, of each part without the parts inside it, with random weights. These find nothing, so
the evaluation has the fixed load of `tools/benchmark.py speed`: 1000 RoIs, and 100 masks pasted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from convnext_dense.mm.bench.step_profile import profile
from convnext_dense.mm.errors import one_line_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("row", help="recipe of a two-stage detector")
    parser.add_argument("--data-root", metavar="DIR", help="dataset folder instead of the config's")
    parser.add_argument("--evaluate", action="store_true", help="evaluation instead of training")
    parser.add_argument("--steps", type=int, default=2, help="images, after one to warm up (default: 2)")
    args = parser.parse_args()
    with one_line_errors():
        seconds = profile(args.row, args.data_root, args.evaluate, args.steps)
    kind = "evaluation" if args.evaluate else "training step"
    threads = torch.get_num_threads()
    print(f"{args.row}, {kind}, CPU seconds per image, {args.steps} images, {threads} thread(s), float32")
    total = sum(seconds.values())
    for part, taken in sorted(seconds.items(), key=lambda entry: -entry[1]):
        print(f"{part:<40} {taken / args.steps:8.3f} s {taken / total:6.1%}")
    print(f"{'all':<40} {total / args.steps:8.3f} s")


if __name__ == "__main__":
    main()
