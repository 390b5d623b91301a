"""Replace the backbone of any mmdet or mmseg config by a ConvNeXt, and test it at once."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.engine.options import add_traceback
from convnext_dense.mm.errors import one_line_errors
from convnext_dense.mm.swap.backbone import swap_backbone
from convnext_dense.mm.swap.smoke_test import try_model
from convnext_dense.mm.swap.write import default_output, format_changes, write_config
from convnext_dense.models.archs import ARCHS
from convnext_dense.support.command_line import command_for


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="path, or mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py")
    parser.add_argument("--arch", default="tiny", choices=ARCHS, help="size of the ConvNeXt (default: tiny)")
    parser.add_argument("--pretrained", metavar="SOURCE", help="weights or none (default: the published)")
    parser.add_argument("--keep-optim", action="store_true", help="leave the optimizer as it is")
    parser.add_argument("--no-amp", action="store_true", help="no mixed precision unless the config has it")
    parser.add_argument("--no-check", action="store_true", help="skip the training step and the prediction")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="config to write")
    add_traceback(parser)
    args = parser.parse_args(argv)
    with one_line_errors(args.traceback):
        swap = swap_backbone(
            load_config(args.config), args.arch, args.pretrained, args.keep_optim, amp=not args.no_amp
        )
        print(format_changes(swap.changes))
        if not args.no_check:
            print("trying a training step and a prediction ...", flush=True)
            try_model(swap.cfg)
        out = args.out or default_output(args.config, args.arch)
        write_config(swap, args.config, out)
    print(f"wrote {out}; next: {command_for('train')} {out} --data-root ...")
