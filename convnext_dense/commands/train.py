"""Train a detector or segmentor."""

import argparse
from collections.abc import Sequence

from convnext_dense.mm.apis.train import TrainOptions, training_preflight, training_runner
from convnext_dense.mm.engine.launch import leaving_together
from convnext_dense.mm.engine.options import add_options, add_traceback, read_options
from convnext_dense.mm.errors import one_line_errors


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="path of a config, or a recipe's name such as cascade/convnext_b_3x")
    add_options(parser, TrainOptions)
    parser.add_argument(
        "--preflight",
        action="store_true",
        help="check data and weights, try steps, report memory, hours and disk, and exit; writes nothing",
    )
    add_traceback(parser)
    args = parser.parse_args(argv)
    with one_line_errors(args.traceback):
        options = read_options(args, TrainOptions)
        with leaving_together():
            ready = True
            if args.preflight:
                ready = training_preflight(args.config, options)
            else:
                training_runner(args.config, options).train()
    raise SystemExit(0 if ready else 1)
