"""The command ``reproduce``: compares the released checkpoints on disk with the paper's tables.

It plans, tries each checkpoint on one image, runs the tests that have no record yet, and gives a verdict on
each; the decisions are in :mod:`convnext_dense.results.reproduction`.
"""

import argparse
import datetime
import gc
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

from convnext_dense.errors import UserError
from convnext_dense.evaluation.coco_ap import Evaluator
from convnext_dense.mm.apis.test import Job, identity, run_protocol
from convnext_dense.mm.bench.accuracy import measure
from convnext_dense.mm.bench.rows import LeftOut, download_folder, jobs_on_disk
from convnext_dense.mm.engine.launch import Launcher, leaving_together, select_device
from convnext_dense.mm.engine.options import Options
from convnext_dense.mm.errors import explain
from convnext_dense.results.records import find_record, read_records
from convnext_dense.results.reproduction import (
    Planned,
    Verdict,
    exit_code,
    first_step,
    format_missing,
    format_plan,
    format_verdicts,
    how_tested,
    judge,
    page,
    published_figures,
    published_tests,
    select_rows,
    summary,
)
from convnext_dense.support.files import write_json, write_text

INTERRUPTED = 130  # the shell's status for Ctrl-C
_INDICES = "test_dataloader.dataset.indices"  # an integer N stands for the first N images


def add_reproduce(subcommands: argparse._SubParsersAction) -> None:
    """Add ``reproduce`` to a command line."""
    parser = subcommands.add_parser(
        "reproduce",
        help="released checkpoints against the paper's figures, with a verdict for each row",
        description="Measure every row of the paper's COCO and ADE20K tables whose released checkpoint and "
        "val set are on disk. Measurements stay recorded: the same command resumes after an "
        "interruption. Exit status: 0 all measured rows are reproduced, 1 some differ or failed, "
        "2 nothing was measured, 130 interrupted.",
    )
    add_arguments(parser)
    parser.set_defaults(run=reproduce)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for what to measure and how; none changes the published test."""
    add = parser.add_argument
    add("--data-root", metavar="DIR", help="folder with coco/ and ADEChallengeData2016/, or one of them")
    add(
        "--checkpoints",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder of released checkpoints under their released file names; may be repeated",
    )
    add(
        "--rows",
        nargs="+",
        metavar="PATTERN",
        help="rows such as 'upernet/*' or convnext_t_3x, baselines included (default: all ConvNeXt rows)",
    )
    add("--tta", action="store_true", help="also ADE20K at several scales and flip, 12 passes per image")
    add("--quick", type=int, metavar="N", help="smoke test: the first N images of each row, recorded apart")
    add("--again", action="store_true", help="also measure what is recorded")
    add("--results", type=Path, default=Path("results"), metavar="DIR", help="records (default: results)")
    add("--work-dir", metavar="DIR", help="logs and predictions (default: work_dirs/benchmark)")
    add("--evaluator", choices=get_args(Evaluator), default="pycocotools", help="library for COCO's figures")
    add("--launcher", choices=get_args(Launcher), default="none", help="how processes are started")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:N or mps (default: the best available)")
    # torchrun's predecessor passes the local rank as an argument
    add("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


@dataclass
class Step:
    """One test on its way to a verdict.

    Attributes:
        test: entry of the plan.
        job: how to run it; ``None`` if something is not on disk.
        verdict: the verdict so far.
        record: its accuracy record, once there is one.
    """

    test: Planned
    job: Job | None = None
    verdict: Verdict = field(init=False)
    record: dict | None = None

    def __post_init__(self) -> None:
        self.verdict = judge(self.test, self.record)

    @property
    def name(self) -> str:
        """Row and test."""
        return f"{self.test.row}, {how_tested(self.test.tta)}"

    def finish(self, record: dict) -> None:
        """Judge the measured record."""
        self.record, self.verdict = record, judge(self.test, record)

    def fail(self, error: Exception) -> None:
        """Judge an error; a traceback is printed if the user cannot fix it."""
        self.verdict = judge(self.test, failure=failure_line(error, self.job))


def reproduce(args: argparse.Namespace) -> None:
    """Plan, try, measure, judge; always ends the process.

    Raises:
        UserError: a wrong argument, or nothing can be measured.
        SystemExit: with the status that the command's help lists.
    """
    if args.quick is not None and args.quick < 1:
        raise UserError(f"--quick {args.quick}: give a number of images of 1 or more")
    select_device(args.device, args.launcher)
    say = _say_nothing if _is_helper(args.launcher) else _say
    say("looking for released checkpoints, val sets and records")
    results = args.results / "quick" if args.quick else args.results
    folders = [*args.checkpoints, download_folder()]
    steps = list(plan(args, folders, results))
    tests = [step.test for step in steps]
    if not tests:
        raise UserError("--rows: these rows have figures at several scales only; add --tta")
    say(format_plan(tests))
    say(format_missing(tests, list(map(str, folders))))
    if all(step.job is None for step in steps):
        raise UserError(first_step(tests, str(folders[0])))
    status = None
    try:
        with leaving_together():
            if not args.quick:
                try_checkpoints(steps, say)
            measure_all(steps, results, args.again, say)
    except KeyboardInterrupt:
        status = INTERRUPTED
    if say is _say_nothing:  # the first process judges
        raise SystemExit(status or 0)
    write_summary(steps, results)
    say(f"\n{format_verdicts([step.verdict for step in steps])}")
    say(f"written: {results / 'reproduction.json'}, {results / 'reproduction.md'}")
    if status == INTERRUPTED:
        say("interrupted; what was measured is recorded, and the same command resumes there")
    raise SystemExit(status or exit_code((step.verdict.outcome for step in steps), bool(args.quick)))


# ----------------------------------------------------------------------------------------------------- steps


def plan(args: argparse.Namespace, folders: list[Path], results: Path) -> Iterator[Step]:
    """Check the disk and the records.

    Args:
        args: the command line.
        folders: folders that may hold released checkpoints.
        results: folder of the records.

    Raises:
        UserError: no row matches a pattern.
    """
    try:
        rows = select_rows(args.rows)
    except ValueError as error:
        raise UserError(str(error)) from None
    base = Path(args.work_dir or "work_dirs/benchmark") / ("quick" if args.quick else "")
    options = Options(
        work_dir=str(base),
        data_root=args.data_root,
        launcher=args.launcher,
        device=args.device,
        overrides={_INDICES: args.quick} if args.quick else None,
    )
    records = [] if args.again else read_records(results, "accuracy")
    for found in jobs_on_disk(options, folders, args.evaluator, args.tta, rows, released=True):
        if isinstance(found, LeftOut):
            for tta in published_tests(found.row, args.tta):
                yield Step(Planned(found.row, tta, found.lacks, found.expected))
        elif published_figures(found.name, found.tta):
            record = find_record(records, identity(found))
            yield Step(Planned(found.name, found.tta, recorded=record is not None), found, record=record)


def try_checkpoints(steps: Sequence[Step], say: Callable[[str], None]) -> None:
    """Load each checkpoint that has tests to run and predict one image, to find faults early."""
    waiting = [step for step in steps if step.test.state == "will run"]
    checkpoints = list(dict.fromkeys(step.job.checkpoint for step in waiting))
    for number, checkpoint in enumerate(checkpoints, 1):
        say(f"\n[trial {number}/{len(checkpoints)}] {checkpoint.name}: loading, then one image")
        sharing = [step for step in waiting if step.job.checkpoint == checkpoint]
        try:
            run_protocol(first_image(sharing[0].job))
        except Exception as error:  # the other rows can still be measured
            for step in sharing:
                step.fail(error)
            say(f"failed {sharing[0].test.row}: {sharing[0].verdict.reason}")
        _free_memory()


def first_image(job: Job) -> Job:
    """The same job on one image at one scale, in its own folder; it is not recorded."""
    overrides = {**(job.options.overrides or {}), _INDICES: 1}
    options = replace(job.options, overrides=overrides, work_dir=f"{job.options.work_dir}/trial")
    return replace(job, options=options, tta=False)


def measure_all(steps: Sequence[Step], results: Path, again: bool, say: Callable[[str], None]) -> None:
    """Run all waiting tests one after another; each ends in a record or a failure.

    Args:
        steps: the plan; verdicts are written into it.
        results: folder of the records.
        again: also measure what is recorded.
        say: reports progress.
    """
    waiting = [step for step in steps if step.verdict.outcome == "not yet measured"]
    for number, step in enumerate(waiting, 1):
        say(f"\n[{number}/{len(waiting)}] {step.name}: {step.job.checkpoint.name}")
        start = time.monotonic()
        try:
            measured = measure(step.job, results, again)
            if measured:  # in the first process
                step.finish(measured.record)
        except Exception as error:  # the other rows can still be measured
            step.fail(error)
        if say is not _say_nothing:
            write_summary(steps, results)
        _free_memory()
        took = datetime.timedelta(seconds=round(time.monotonic() - start))
        say(f"[{number}/{len(waiting)}] {took}: {step.verdict.text}")


def write_summary(steps: Sequence[Step], results: Path) -> None:
    """Write ``reproduction.json`` and ``reproduction.md`` beside the records, each atomically."""
    verdicts = [step.verdict for step in steps]
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    records = {(step.test.row, step.test.tta): step.record for step in steps if step.record}
    write_json(results / "reproduction.json", summary(verdicts, records, now))
    write_text(results / "reproduction.md", page(verdicts, now))


# --------------------------------------------------------------------------------------------------- details


def failure_line(error: Exception, job: Job) -> str:
    """The error as one line without this machine's folders; prints the traceback of an unexpected one."""
    line = explain(error)
    if line is None:
        traceback.print_exception(error)
        line = f"{type(error).__name__}: {error}"
    line = line.split("\n")[0].strip()
    for folder in (job.checkpoint.parent, Path(job.options.data_root or ".")):
        if folder != Path("."):
            line = line.replace(f"{folder}{os.sep}", "")
    return line


def _free_memory() -> None:
    """Free a runner with its reference cycles and its model before the next one is built."""
    gc.collect()


def _is_helper(launcher: Launcher) -> bool:
    """Whether this is not the first process of a distributed test; only the first one reports."""
    rank = {"none": "0", "pytorch": os.environ.get("RANK"), "slurm": os.environ.get("SLURM_PROCID")}
    return rank[launcher] not in (None, "0")


def _say(line: str) -> None:
    if line:
        print(line, flush=True)


def _say_nothing(line: str) -> None:
    pass
