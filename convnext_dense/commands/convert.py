"""Write a ConvNeXt checkpoint in the names of another code base; values are untouched."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from convnext_dense.checkpoints.convert import TARGETS, Builder, convert, largest_difference, write_checkpoint
from convnext_dense.checkpoints.fetch import fetch
from convnext_dense.checkpoints.load import in_our_names
from convnext_dense.checkpoints.other_libraries import BUILDERS
from convnext_dense.checkpoints.read import read_state_dict
from convnext_dense.errors import CheckpointError


def builder_of(target: str) -> Builder:
    """The function that builds the target's own model."""
    if target == "mmpretrain":
        from convnext_dense.mm.bench.mmpretrain import mmpretrain_model

        return mmpretrain_model
    if target not in BUILDERS:
        raise CheckpointError(f"--verify: {target} naming is this package's own, there is nothing to compare")
    return BUILDERS[target]


def run(args: argparse.Namespace) -> None:
    """Convert, and with ``--verify`` compare before anything is written."""
    renamed, tensors = in_our_names(read_state_dict(fetch(args.source), ema=args.ema), args.source)
    converted = convert(tensors, args.to)
    unused = {key.split(".")[0] for key in (*renamed.dropped, *renamed.beside)}
    print(f"read {len(tensors)} tensors, {renamed.naming.name} naming", end="")
    print(f" (left out: {', '.join(sorted(unused))})" if unused else "")
    if args.verify:
        torch.manual_seed(0)
        image = torch.randn(1, 3, args.size, args.size)
        differences = largest_difference(tensors, args.to, builder_of(args.to), image)
        for name, difference in differences.items():
            print(f"{name}: largest difference {difference:.1e} standard deviations")
        if max(differences.values()) > args.tolerance:
            raise CheckpointError(
                f"the two implementations differ by more than {args.tolerance}; nothing written"
            )
    write_checkpoint(converted.state, args.out, args.to)
    left_out = f" (no place there for {', '.join(converted.left_out)})" if converted.left_out else ""
    print(f"wrote {len(converted.state)} tensors, {args.to} naming, to {args.out}{left_out}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", metavar="IN", help="file, folder, URL, timm:NAME or hf:REPO, of any naming")
    parser.add_argument(
        "out", metavar="OUT", type=Path, help="file to write; .safetensors, or torch.save's format"
    )
    parser.add_argument("--to", required=True, choices=TARGETS, help="code base whose names are written")
    parser.add_argument("--ema", action="store_true", help="averaged weights of a training checkpoint")
    parser.add_argument("--verify", action="store_true", help="run both implementations on one image first")
    parser.add_argument("--size", type=int, default=224, help="side of that image (default: 224)")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest difference (default: 1e-4)")
    args = parser.parse_args(argv)
    try:
        run(args)
    except CheckpointError as error:
        raise SystemExit(f"error: {error}") from None
