"""Write a trained model as one ONNX file, which runs without PyTorch, and prove that it computes the same."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from convnext_dense.errors import UserError
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.datasets.paths import set_data_root
from convnext_dense.mm.engine.options import Entries, add_traceback
from convnext_dense.mm.errors import one_line_errors
from convnext_dense.mm.evaluation.identity import recipe_name
from convnext_dense.support.optional_packages import optional

PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="path of a config, or a recipe's name")
    parser.add_argument("checkpoint", help="file that training wrote")
    parser.add_argument(
        "-o", "--out", type=Path, metavar="FILE", help="default: the checkpoint's name with .onnx"
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="one size of input; the runtime pads pictures to it (default: any size)",
    )
    size.add_argument("--dynamic", action="store_true", help="inputs of any size, which is the default")
    parser.add_argument("--labels", action="store_true", help="segmentors: class numbers in place of logits")
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument("--half", action="store_true", help="weights and products in float16")
    precision.add_argument("--int8", action="store_true", help="weights and activations in 8 bits")
    parser.add_argument(
        "--calibration", metavar="FOLDER", help="pictures for --int8 (default: the training set)"
    )
    parser.add_argument(
        "--pictures", type=int, default=64, metavar="N", help="how many of them (default: 64)"
    )
    parser.add_argument("--data-root", metavar="DIR", help="dataset folder instead of the config's")
    parser.add_argument("--cfg-options", nargs="+", action=Entries, metavar="KEY=VALUE")
    check = parser.add_mutually_exclusive_group()
    check.add_argument(
        "--check", action="store_true", default=True, help="compare with PyTorch, which is the default"
    )
    check.add_argument("--no-check", dest="check", action="store_false", help="write without comparing")
    add_traceback(parser)
    args = parser.parse_args(argv)
    with one_line_errors(args.traceback):
        run(args)


def run(args: argparse.Namespace) -> None:
    """Export, and print a line for each step."""
    for name in PACKAGES:
        optional(name, "export", '"convnext_dense[export]"')
    from convnext_dense.mm.export.run import Request, export

    if args.size and min(args.size) < 1:
        raise UserError(f"--size {args.size[0]} {args.size[1]}: height and width in pixels")
    if args.pictures < 1:
        raise UserError(f"--pictures {args.pictures}: at least 1")
    if args.calibration and not args.int8:
        raise UserError("--calibration is for --int8")
    cfg = load_config(args.config, args.cfg_options)
    if args.data_root:
        set_data_root(cfg, args.data_root)
    request = Request(
        recipe=recipe_name(args.config) or Path(args.config).stem,
        checkpoint=args.checkpoint,
        out=args.out or Path(Path(args.checkpoint).name).with_suffix(".onnx"),
        fixed_hw=tuple(args.size) if args.size else None,
        labels=args.labels,
        half=args.half,
        int8=args.int8,
        calibration=args.calibration,
        pictures=args.pictures,
        check=args.check,
    )
    for line in export(cfg, request):
        print(line, flush=True)
