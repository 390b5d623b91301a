"""Measure recipes against the paper's tables.

complexity  parameters and multiply-accumulates, counted on the meta device
accuracy    AP or mIoU by the published test protocol; every measurement is a line in results/accuracy.jsonl
reproduce   the released checkpoints on disk against the paper's figures, with a verdict for each row
report      one page of HTML about a run: recipe, curves, figures, best and worst predictions
speed       time and memory of inference and of a training step, compared with other libraries
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from convnext_dense.bench.complexity import format_table
from convnext_dense.errors import UserError
from convnext_dense.mm.apis.test import Job
from convnext_dense.mm.bench.accuracy import measure as measure_job
from convnext_dense.mm.bench.complexity import compare, countable_rows
from convnext_dense.mm.bench.report import write_report
from convnext_dense.mm.bench.reproduce import add_reproduce
from convnext_dense.mm.bench.rows import LeftOut, checkpoint_folders, jobs_on_disk, single_job
from convnext_dense.mm.bench.speed_command import add_speed
from convnext_dense.mm.engine.options import (
    ENGINE_NAMES,
    Options,
    add_engine,
    add_options,
    add_traceback,
    read_options,
)
from convnext_dense.mm.errors import explain, one_line_errors
from convnext_dense.mm.models.onnx_model import is_exported, recipe_of
from convnext_dense.results.records import format_comparison


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_complexity(subcommands)
    add_accuracy(subcommands)
    add_reproduce(subcommands)
    add_report(subcommands)
    add_speed(subcommands)
    for command in subcommands.choices.values():
        add_traceback(command)
    args = parser.parse_args(argv)
    with one_line_errors(args.traceback):
        args.run(args)


def add_complexity(subcommands: argparse._SubParsersAction) -> None:
    parser = subcommands.add_parser("complexity", help="parameters and MACs beside the paper's")
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help="rows, recipes or config files (default: all of the tables)"
    )
    parser.add_argument(
        "--shape",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="image size (default: that of the paper's count)",
    )
    parser.add_argument("--json", action="store_true", help="print records instead of a table")
    parser.set_defaults(run=complexity)


def complexity(args: argparse.Namespace) -> None:
    shape = tuple(args.shape) if args.shape else None
    rows = [compare(name, shape) for name in args.rows or countable_rows()]
    print(json.dumps([row.record() for row in rows], indent=1) if args.json else format_table(rows))


def add_accuracy(subcommands: argparse._SubParsersAction) -> None:
    parser = subcommands.add_parser("accuracy", help="AP or mIoU beside the paper's")
    parser.add_argument(
        "row",
        nargs="?",
        metavar="ROW|CONFIG|MODEL.onnx",
        help="row, recipe or config file; or an exported file, which names its recipe",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="FILE|URL",
        help="weights, or MODEL.onnx (default: trained here, else the released ones)",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="every row whose data and weights are on disk; resumes where it stopped",
    )
    parser.add_argument(
        "--checkpoints",
        type=Path,
        action="append",
        metavar="DIR",
        help="with --all: folder of weights or runs",
    )
    parser.add_argument(
        "--tta", action="store_true", help="test at several scales and flip; with --all, ADE20K in both ways"
    )
    parser.add_argument(
        "--evaluator",
        choices=("pycocotools", "faster-coco-eval"),
        default="pycocotools",
        help="library for COCO's figures; both give the same (default: pycocotools)",
    )
    parser.add_argument("--again", action="store_true", help="measure again what is recorded")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="records (default: results)"
    )
    add_engine(parser)
    add_options(parser, Options, leave_out=("log", "compile"))
    parser.set_defaults(run=accuracy)


def accuracy(args: argparse.Namespace) -> None:
    if (args.row is None) != args.all:
        raise UserError("give a row or a config, or --all")
    options = read_options(args, Options)
    if not args.all:
        if is_exported(args.row) and not args.checkpoint:
            args.row, args.checkpoint = recipe_of(args.row), args.row
        job = single_job(args.row, args.checkpoint, options, args.evaluator, args.tta)
        measure(replace(job, engine=ENGINE_NAMES[args.engine]), args)
        return
    folders = [*(args.checkpoints or []), *checkpoint_folders()]
    failed = 0
    for job in jobs_on_disk(options, folders, args.evaluator, args.tta):
        if isinstance(job, LeftOut):
            print(f"left out {job.row}: {job.reason}", flush=True)
            continue
        try:
            measure(job, args)
        except Exception as error:  # the other rows can still be measured
            if explain(error) is None:
                raise
            failed += 1
            print(f"failed {job.name}: {explain(error)}", flush=True)
    raise SystemExit(1 if failed else 0)


def measure(job: Job, args: argparse.Namespace) -> None:
    """Run one test unless it is recorded, record it, and print it beside the paper's figures."""
    measured = measure_job(job, args.results, args.again)
    if measured is None:  # a process of a distributed test, not the first
        return
    if measured.folder is None:
        print(f"recorded on {measured.record['time']} already (--again measures again):")
    else:
        print(f"predictions and figures of each class: {measured.folder}")
    print(format_comparison(measured.record), flush=True)


def add_report(subcommands: argparse._SubParsersAction) -> None:
    parser = subcommands.add_parser("report", help="one page of HTML about a run")
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="work folder of a training")
    parser.add_argument("-o", "--out", type=Path, default=Path("report.html"), help="default: report.html")
    parser.add_argument("--data-root", metavar="DIR", help="dataset folder instead of the run's")
    parser.add_argument("--row", help="row of the paper's tables to compare with (default: from the config)")
    parser.add_argument(
        "--skip-test", action="store_true", help="no figures and predictions of the checkpoint"
    )
    parser.set_defaults(run=report)


def report(args: argparse.Namespace) -> None:
    write_report(args.run_dir, args.out, args.data_root, args.row, args.skip_test)
    print(f"report: {args.out}")
