"""Train a detector or segmentor: python tools/train.py configs/mask_rcnn/convnext_t_3x.py"""

import argparse

from convnext_dense.mm.cli import add_common_arguments, add_compile_argument, common_options
from convnext_dense.mm.errors import one_line_errors
from convnext_dense.mm.runtime import training_runner
from convnext_dense.mm.settings import LOGS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_arguments(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="PATH",
        help="go on from a checkpoint; without PATH from the newest of the work folder",
    )
    parser.add_argument(
        "--amp",
        action=argparse.BooleanOptionalAction,
        help="mixed precision on or off (default: as the recipe has it)",
    )
    parser.add_argument(
        "--pretrained", metavar="PATH|URL|none", help="backbone weights instead of the config's"
    )
    parser.add_argument(
        "--log", choices=tuple(LOGS), help="log there, too (TensorBoard files are always written)"
    )
    parser.add_argument("--seed", type=int, help="of every random number generator")
    add_compile_argument(parser)
    args = parser.parse_args()
    with one_line_errors():
        runner = training_runner(
            args.config, common_options(args), args.resume, args.amp, args.pretrained, args.seed
        )
        runner.train()


if __name__ == "__main__":
    main()
