"""Evaluate a checkpoint: COCO AP (bbox and segm) or mIoU, and pictures on request."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from convnext_dense.mm.engine.hooks import PicturesHook
from convnext_dense.mm.engine.launch import leaving_together
from convnext_dense.mm.engine.options import Options, add_options, read_options
from convnext_dense.mm.engine.runner import testing_runner
from convnext_dense.mm.errors import one_line_errors
from convnext_dense.support.files import write_json


def positive(text: str) -> int:
    """Parse an argument that is a whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="path of a config, or a recipe's name such as cascade/convnext_b_3x")
    add_options(parser, Options, leave_out=("log",))
    parser.add_argument("checkpoint", help="file that training wrote")
    parser.add_argument("--out", metavar="FILE", help="metrics as JSON")
    parser.add_argument("--show-dir", metavar="DIR", help="pictures: ground truth left, prediction right")
    parser.add_argument("--score-thr", type=float, default=0.3, help="detections drawn (default: 0.3)")
    parser.add_argument("--tta", action="store_true", help="merge predictions over scales and flips")
    parser.add_argument(
        "--window-batch", type=positive, metavar="N", help="sliding windows at once (default: by free memory)"
    )
    parser.add_argument(
        "--no-fuse",
        dest="fuse",
        action="store_false",
        help="do not fold the backbone's weights: slower, same results",
    )
    args = parser.parse_args(argv)
    with one_line_errors():
        options = read_options(args, Options)
        with leaving_together():
            runner = testing_runner(
                args.config, args.checkpoint, options, args.tta, args.window_batch, args.fuse
            )
            if args.show_dir:
                runner.register_hook(PicturesHook(args.show_dir, args.score_thr))
            # JSON cannot hold numpy's numbers
            metrics = {name: float(value) for name, value in runner.test().items()}
    if runner.rank == 0:
        for name, value in metrics.items():
            print(f"{name:<24} {value:.4f}")
        if args.out:
            write_json(args.out, metrics)
            print(f"metrics: {args.out}")
        if args.show_dir:
            print(f"pictures: {Path(args.show_dir)}")
