"""Train a detector or segmentor: python tools/train.py configs/mask_rcnn/convnext_t_3x.py"""

import argparse
import sys
from collections.abc import Sequence

from convnext_dense.mm.apis.options import add_common_arguments, add_compile_argument, common_options
from convnext_dense.mm.apis.train import TrainOptions, training_preflight, training_runner
from convnext_dense.mm.config.edit import LOGS
from convnext_dense.mm.engine.launch import leaving_together
from convnext_dense.mm.errors import one_line_errors

OWN = (
    "resume",
    "amp",
    "pretrained",
    "seed",
    "ema",
    "keep",
    "save_best",
    "checkpoint_minutes",
    "fsdp",
    "strict_data",
)


def main(argv: Sequence[str] | None = None) -> None:
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
    batch = parser.add_mutually_exclusive_group()
    batch.add_argument(
        "--scale-lr",
        dest="batch",
        action="store_const",
        const="scale_lr",
        help="scale the learning rate to the batch that fits (default: accumulate the recipe's batch)",
    )
    batch.add_argument(
        "--no-accumulate",
        dest="batch",
        action="store_const",
        const="as_is",
        help="one batch a step at the recipe's learning rate",
    )
    parser.add_argument(
        "--ema",
        nargs="?",
        type=float,
        const=1e-4,
        metavar="MOMENTUM",
        help="average the weights; the average is evaluated and saved (momentum: 0.0001)",
    )
    parser.add_argument("--keep", type=int, metavar="K", help="keep the last K regular checkpoints")
    parser.add_argument(
        "--save-best", metavar="METRIC", help="keep the best checkpoint, too, by e.g. mIoU or coco/bbox_mAP"
    )
    parser.add_argument(
        "--checkpoint-minutes",
        type=float,
        default=30,
        metavar="M",
        help="longest time without a checkpoint (default: 30; 0: the config's alone)",
    )
    parser.add_argument(
        "--preflight",
        action="store_true",
        help="check data and weights, try steps, tell memory, hours and disk, and exit; writes nothing",
    )
    parser.add_argument(
        "--strict-data",
        action="store_true",
        help="stop at the first bad image or annotation (default: leave it out, count it and name it)",
    )
    parser.add_argument(
        "--fsdp",
        action="store_true",
        help="shard weights, gradients and optimizer over the processes, for models that fit no other way",
    )
    add_compile_argument(parser)
    args = parser.parse_args(argv)
    with one_line_errors():
        own = {name: getattr(args, name) for name in OWN}
        options = TrainOptions(**vars(common_options(args)), batch=args.batch or "accumulate", **own)
        with leaving_together():
            if args.preflight:
                ready = training_preflight(args.config, options)
            else:
                training_runner(args.config, options).train()
                ready = True
    sys.exit(0 if ready else 1)
