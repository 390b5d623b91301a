"""The command ``speed``: time and memory compared with the peers, as a table and as records."""

import argparse
import datetime
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from convnext_dense.bench.records import (
    format_records,
    measure,
)
from convnext_dense.bench.timing import (
    DTYPES,
    PASSES,
    REPEATS,
    Conditions,
    Subject,
    warm_ups,
)
from convnext_dense.errors import UserError
from convnext_dense.mm.bench.speed import PEERS, Level, backbone_subjects, model_subjects, paper_shape
from convnext_dense.models.archs import ARCHS, resolve_arch
from convnext_dense.results.records import append_record


def add_speed(subcommands: argparse._SubParsersAction) -> None:
    """Add ``speed`` to a command line."""
    parser = subcommands.add_parser("speed", help="time and memory compared with the peers")
    add_arguments(parser)
    parser.set_defaults(run=speed)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options: what to measure and under which conditions."""
    add = parser.add_argument
    add(
        "rows",
        nargs="*",
        default=["tiny"],
        metavar="ROW",
        help="rows, recipes or archs (default: tiny, the backbone)",
    )
    add(
        "--part",
        nargs="+",
        choices=("backbone", "model"),
        default=["backbone"],
        help="backbone alone, whole model, or both",
    )
    add("--pass", dest="passes", nargs="+", choices=PASSES, default=PASSES, help="default: both")
    add("--shape", nargs=2, type=int, metavar=("H", "W"), help="image size (default: the paper's)")
    add("--batch", type=int, default=1, metavar="N", help="images at a time (default: 1)")
    add("--dtype", nargs="+", choices=tuple(DTYPES), default=["fp32"], help="default: fp32")
    add("--channels-last", action="store_true", help="also measure the peers in that layout (ours always is)")
    add(
        "--peers",
        nargs="*",
        choices=PEERS,
        default=PEERS,
        help="what to compare with: our backbone in other libraries, whole models of mmdet's or mmseg's own "
        "classes (stock) or exported (onnxruntime, openvino), rivals of the paper's table; no name means "
        "none (default: all)",
    )
    add("--compile", action="store_true", help="compile everything with torch.compile")
    add(
        "--memory",
        nargs="+",
        default=["lean"],
        metavar="LEVEL",
        help="for our training: plain, lean, leaner; lean+cp recomputes all blocks, lean+cp01 two stages",
    )
    add(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, cuda, or meta: count bytes",
    )
    add("--threads", type=int, metavar="N", help="CPU threads (default: torch's own choice)")
    add("--repeats", type=int, metavar="N", help="interleaved repeats (default: 5 on a CPU, 50 on a GPU)")
    add("--bound", action="store_true", help="inference: also measure the pointwise products alone")
    add(
        "--json",
        type=Path,
        metavar="FILE",
        help="append a record of each measurement, one JSON object per line",
    )


def speed(args: argparse.Namespace) -> None:
    """Measure everything requested; print each comparison when it is done.

    Raises:
        UserError: an invalid argument.
    """
    check(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    levels = [Level.parse(text) for text in args.memory]
    for row in args.rows:
        for part in args.part:
            for direction in args.passes:
                for dtype in args.dtype:
                    for records in compare(row, part, direction, dtype, levels, args):
                        print(f"{format_records(records)}\n", flush=True)


def check(args: argparse.Namespace) -> None:
    """Raise ``UserError`` for what cannot be measured."""
    device = args.device.partition(":")[0]
    if device not in ("cpu", "cuda", "meta"):
        raise UserError(f"--device {args.device}: use cpu, cuda or meta")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {args.device}: torch {torch.__version__} sees no GPU")
    if device == "meta" and ("model" in args.part or "inference" in args.passes):
        raise UserError("--device meta counts what training keeps: --part backbone --pass training")
    least = {"--batch": args.batch, "--repeats": args.repeats, "--threads": args.threads}
    for option, value in least.items():
        if value is not None and value < 1:
            raise UserError(f"{option} {value}: at least 1")
    if args.shape and min(args.shape) < 32:
        raise UserError(f"--shape {args.shape[0]} {args.shape[1]}: at least 32 pixels per side")
    for row in args.rows:
        if "/" not in row and not row.endswith(".py"):
            try:
                resolve_arch(row)
            except ValueError as error:
                raise UserError(f"{error}, or a recipe such as cascade/convnext_t_3x") from None
        if "model" in args.part and (row in ARCHS or row.startswith("imagenet/")):
            raise UserError(f"{row} is a backbone alone; omit --part model")


def compare(
    row: str, part: str, direction: str, dtype: str, levels: Sequence[Level], args: argparse.Namespace
) -> Iterator[list[dict]]:
    """Records of one comparison, measured in interleaved repeats; empty if there is nothing to measure."""
    shape = tuple(args.shape) if args.shape else paper_shape(row, direction)
    conditions = Conditions(torch.device(args.device), dtype, shape, args.batch, args.compile)
    torch.manual_seed(0)
    if part == "model":
        found = model_subjects(row, direction, conditions, levels, args.peers)
    else:
        found = backbone_subjects(
            row, direction, conditions, levels, args.channels_last, args.bound, args.peers
        )
    subjects: list[Subject] = []
    for subject in found:
        if isinstance(subject, str):
            print(subject, file=sys.stderr)
        else:
            subjects.append(subject)
    repeats = args.repeats or REPEATS.get(conditions.device.type, 1)
    calls = len(subjects) * (repeats + warm_ups(conditions.device))
    with tqdm(total=calls, desc=f"{row} {part} {direction} {dtype}", file=sys.stderr, leave=False) as bar:
        records = measure(subjects, direction, conditions, repeats, bar.update)
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    records = [dict(dict(row=None if row in ARCHS else row, part=part, time=now), **r) for r in records]
    for record in records:
        if args.json:
            append_record(args.json, record)
    yield records
