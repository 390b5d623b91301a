"""Evaluate a checkpoint: COCO AP (bbox and segm) or mIoU, and pictures on request.

The figures are recorded, so that tables and reports have them without a second test.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from convnext_dense.mm.apis.test import Job, Outcome, local_checkpoint, run_test
from convnext_dense.mm.engine.launch import leaving_together
from convnext_dense.mm.engine.options import (
    ENGINE_NAMES,
    Options,
    add_inference,
    add_options,
    add_traceback,
    read_options,
)
from convnext_dense.mm.errors import one_line_errors
from convnext_dense.results.records import format_comparison
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
    parser.add_argument("checkpoint", help="file that training wrote, or MODEL.onnx")
    parser.add_argument("--out", metavar="FILE", help="metrics as JSON")
    parser.add_argument(
        "--show-dir", type=Path, metavar="DIR", help="pictures: ground truth left, prediction right"
    )
    parser.add_argument("--score-thr", type=float, default=0.3, help="detections drawn (default: 0.3)")
    parser.add_argument("--tta", action="store_true", help="merge predictions over scales and flips")
    parser.add_argument(
        "--window-batch", type=positive, metavar="N", help="sliding windows at once (default: by free memory)"
    )
    add_inference(parser)
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="records (default: results)"
    )
    add_traceback(parser)
    args = parser.parse_args(argv)
    with one_line_errors(args.traceback):
        options = read_options(args, Options)
        job = Job(
            args.config,
            local_checkpoint(args.checkpoint),
            options,
            args.tta,
            window_batch=args.window_batch,
            fused=args.fuse,
            dtype=args.dtype,
            engine=ENGINE_NAMES[args.engine],
            pictures=args.show_dir,
            score_thr=args.score_thr,
        )
        with leaving_together():
            outcome = run_test(job, args.results)
        if outcome:
            print_outcome(outcome, args.results)
            if args.out:
                write_json(args.out, outcome.metrics)
                print(f"metrics: {args.out}")
            if args.show_dir:
                print(f"pictures: {args.show_dir}")


def print_outcome(outcome: Outcome, results: Path) -> None:
    """Print the figures, beside the paper's where it has them, and where they are kept."""
    if outcome.evaluation:
        print(format_comparison(outcome.evaluation.record))
        print(f"predictions and figures of each class: {outcome.evaluation.folder}")
        print(f"record: {results / 'accuracy.jsonl'}")
        return
    for name, value in outcome.metrics.items():
        print(f"{name:<24} {value:.4f}")
    print(f"not recorded: {outcome.reason}")
