"""Released checkpoints against the published figures: the plan, the verdict on each test, and tables.

Plain values in and out; :mod:`convnext_dense.mm.bench.reproduce` reads the disk and runs the tests.
"""

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal, NamedTuple

from convnext_dense.errors import ArgumentError
from convnext_dense.results import paper
from convnext_dense.results.records import TOLERANCE, Difference, compare, published_metrics
from convnext_dense.support.text_tables import aligned, markdown

REPRODUCED = 0.1
"""Percent points within which a released checkpoint counts as reproducing its published figure.

The weights and the protocol are the published ones, so there is no randomness as in training. The
published figure is rounded, which hides up to 0.05 points; other versions of pycocotools and of the libraries
that decode and resize images (OpenCV, Pillow) change the second decimal.
"""

Part = Literal["recipe", "data", "checkpoint"]
State = Literal["will run", "recorded", "not on disk"]
Outcome = Literal[
    "reproduced", "differs", "not the whole val set", "failed", "not yet measured", "not on disk"
]
MEASURED: tuple[Outcome, ...] = ("reproduced", "differs", "not the whole val set")


class Planned(NamedTuple):
    """One test of a row, before anything runs.

    Attributes:
        row: name of the row.
        tta: several scales and flip instead of one scale.
        lacks: things that are not on disk.
        expected: missing files and folders of the data, as paths.
        recorded: whether an earlier call measured it.
    """

    row: str
    tta: bool = False
    lacks: tuple[Part, ...] = ()
    expected: tuple[str, ...] = ()
    recorded: bool = False

    @property
    def state(self) -> State:
        """The state of the test."""
        if self.lacks:
            return "not on disk"
        return "recorded" if self.recorded else "will run"


class Verdict(NamedTuple):
    """One test of a row, afterwards.

    Attributes:
        row: name of the row.
        tta: several scales and flip instead of one scale.
        outcome: result of the test.
        reason: reason in one line, where the figures do not show it.
        figures: judged figures, measured and published.
    """

    row: str
    tta: bool
    outcome: Outcome
    reason: str = ""
    figures: tuple[Difference, ...] = ()

    @property
    def text(self) -> str:
        """Outcome and reason."""
        return f"{self.outcome}: {self.reason}" if self.reason else self.outcome


# ----------------------------------------------------------------------------------------------- which rows


def released_rows() -> list[str]:
    """Rows of the COCO and ADE20K tables whose trained models were released, in the paper's order."""
    return [row.name for row in _released()]


def _released() -> list[paper.CocoRow | paper.Ade20kRow]:
    return [
        row
        for row in paper.ROWS.values()
        if isinstance(row, paper.CocoRow | paper.Ade20kRow) and row.name in paper.WEIGHTS
    ]


def select_rows(patterns: Sequence[str] | None) -> list[str]:
    """Released rows whose names, with or without the folder, match shell patterns.

    Args:
        patterns: such as ``upernet/*`` or ``convnext_t_3x``; ``None`` selects all ConvNeXt rows.

    Raises:
        ValueError: a pattern that no released row matches; similar names are listed.
    """
    if patterns is None:
        return [row.name for row in _released() if row.backbone.startswith("ConvNeXt")]
    rows = released_rows()
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in rows):
            near = difflib.get_close_matches(pattern, rows, n=3, cutoff=0.4) or rows
            raise ArgumentError(f"--rows {pattern}: no released row matches; near: {', '.join(near)}")
    return [name for name in rows if any(_matches(name, pattern) for pattern in patterns)]


def _matches(name: str, pattern: str) -> bool:
    return fnmatch(name, pattern) or fnmatch(name.rpartition("/")[2], pattern)


def published_figures(row: str, tta: bool) -> dict[str, float]:
    """The row's published figures that are judged, in percent: box and mask AP, or mIoU."""
    published = published_metrics(paper.ROWS[row], tta)
    return {name: value for name, value in published.items() if name in TOLERANCE and value is not None}


def published_tests(row: str, tta: bool) -> list[bool]:
    """Tests of a row that have published figures: ``False`` is one scale, ``True`` several scales and flip.

    Args:
        row: name of the row.
        tta: whether several scales are requested, too.
    """
    return [several for several in (False, True)[: 1 + tta] if published_figures(row, several)]


# ----------------------------------------------------------------------------------------------------- plan


def format_plan(tests: Sequence[Planned]) -> str:
    """The plan as aligned text: row, test, published figures, checkpoint, and the state."""
    states = Counter(test.state for test in tests)
    table = [("row", "test", "published", "checkpoint", "")]
    for test in tests:
        published = " / ".join(f"{value:.1f}" for value in published_figures(test.row, test.tta).values())
        state = f"no {' and no '.join(test.lacks)}" if test.lacks else test.state
        table.append((test.row, how_tested(test.tta), published, checkpoint_name(test.row), state))
    counts = ", ".join(f"{states[state]} {state}" for state in ("will run", "recorded", "not on disk"))
    return f"plan: {counts} (published: box AP / mask AP, or mIoU)\n{aligned(table)}"


def format_missing(tests: Sequence[Planned], folders: Sequence[str]) -> str:
    """Lines that name every missing checkpoint by its URL and every missing file or folder of the data.

    Args:
        tests: the plan.
        folders: folders that were searched for checkpoints; new ones belong in the first.
    """
    urls = dict.fromkeys(paper.WEIGHTS[test.row] for test in tests if "checkpoint" in test.lacks)
    paths = dict.fromkeys(path for test in tests for path in test.expected)
    lines = []
    if urls:
        lines += [f"checkpoints that are not in {' or '.join(folders)}; download them into {folders[0]}:"]
        lines += [f"  {url}" for url in urls]
    if paths:
        lines += ["data that is not there:", *(f"  {path}" for path in paths)]
    return "\n".join(lines)


def first_step(tests: Sequence[Planned], folder: str) -> str:
    """Return one line that says what to download, and where to put it, so that a test can run.

    Args:
        tests: a plan in which every test lacks something; the one that lacks least is chosen.
        folder: folder for checkpoints.
    """
    test = min(tests, key=lambda test: len(test.lacks))
    steps = []
    if "checkpoint" in test.lacks:
        steps.append(f"download {paper.WEIGHTS[test.row]} into {folder}")
    if "data" in test.lacks:
        data = "COCO val2017" if isinstance(paper.ROWS[test.row], paper.CocoRow) else "ADE20K val"
        steps.append(f"lay out {data} as {' and '.join(test.expected)} (--data-root)")
    return f"nothing can be measured; for {test.row}: {', and '.join(steps)}"


# -------------------------------------------------------------------------------------------------- verdict


def judge(test: Planned, record: Mapping | None = None, failure: str | None = None) -> Verdict:
    """Return the verdict on one test.

    Args:
        test: the test, with what it lacks.
        record: its accuracy record, if it was measured.
        failure: reason why it could not be measured, in one line.
    """
    if test.lacks:
        return Verdict(test.row, test.tta, "not on disk", f"no {' and no '.join(test.lacks)}")
    if failure is not None:
        return Verdict(test.row, test.tta, "failed", failure)
    if record is None:
        return Verdict(test.row, test.tta, "not yet measured")
    compared = compare(record, dict.fromkeys(TOLERANCE, REPRODUCED))
    figures = tuple(figure for figure in compared if figure.metric in TOLERANCE)
    if not record["dataset"]["full"]:
        return Verdict(test.row, test.tta, "not the whole val set", record["dataset"]["name"], figures)
    judged = {figure.metric for figure in figures if figure.inside is not None}
    unmeasured = [name for name in published_figures(test.row, test.tta) if name not in judged]
    if unmeasured:
        return Verdict(test.row, test.tta, "failed", f"the test gave no {', no '.join(unmeasured)}", figures)
    same = all(figure.inside for figure in figures if figure.inside is not None)
    return Verdict(test.row, test.tta, "reproduced" if same else "differs", figures=figures)


def exit_code(outcomes: Iterable[Outcome], smoke_test: bool = False) -> int:
    """Exit status. 0: all measured rows are reproduced; 1: some differ, failed or are partial; 2: none.

    Args:
        outcomes: outcomes of all tests; those not on disk or not yet measured do not count.
        smoke_test: whether only a few images of each row were requested; part of the data is then expected.
    """
    counts = Counter(outcomes)
    bad = counts["differs"] + counts["failed"] + (0 if smoke_test else counts["not the whole val set"])
    if bad:
        return 1
    return 0 if any(counts[outcome] for outcome in MEASURED) else 2


def format_verdicts(verdicts: Sequence[Verdict]) -> str:
    """The verdicts as aligned text, and a line with their counts."""
    return f"{aligned(_verdict_rows(verdicts))}\n{format_counts(verdicts)}"


def format_counts(verdicts: Sequence[Verdict]) -> str:
    """Counts of the outcomes, and the tolerance."""
    counts = Counter(verdict.outcome for verdict in verdicts)
    return f"{', '.join(f'{n} {outcome}' for outcome, n in counts.items())} (tolerance: {REPRODUCED} points)"


def summary(verdicts: Sequence[Verdict], records: Mapping[tuple[str, bool], Mapping], time: str) -> dict:
    """The verdicts in machine-readable form.

    Args:
        verdicts: verdicts of all tests.
        records: (row, tta) -> accuracy record of the measured tests.
        time: time of writing.

    Returns:
        time, tolerance in percent points, and one entry per test.
    """
    entries = []
    for verdict in verdicts:
        record = records.get((verdict.row, verdict.tta)) or {}
        figures = {
            figure.metric: dict(published=figure.paper, measured=figure.measured)
            for figure in verdict.figures
        }
        entries.append(
            dict(
                row=verdict.row,
                tta=verdict.tta,
                verdict=verdict.outcome,
                reason=verdict.reason or None,
                figures=figures,
                checkpoint=record.get("checkpoint"),
                dataset=record.get("dataset", {}).get("name"),
                measured=record.get("time"),
            )
        )
    return dict(time=time, tolerance=REPRODUCED, tests=entries)


def page(verdicts: Sequence[Verdict], time: str) -> str:
    """The verdicts as a Markdown page."""
    return (
        "# Released checkpoints against the published figures\n\n"
        f"Written by `tools/benchmark.py reproduce`, {time}. {format_counts(verdicts)}.\n"
        "Figures are box AP / mask AP, or mIoU, in percent.\n\n"
        f"{markdown(_verdict_rows(verdicts))}"
    )


# --------------------------------------------------------------------------------------------------- wording


def how_tested(tta: bool) -> str:
    """The name of the test: one scale, or several with flip."""
    return "several scales + flip" if tta else "one scale"


def checkpoint_name(row: str) -> str:
    """File name of a row's released checkpoint."""
    return Path(paper.WEIGHTS[row]).name


def _verdict_rows(verdicts: Sequence[Verdict]) -> list[tuple[str, ...]]:
    """The head and one row per verdict."""
    head = ("row", "test", "published", "measured", "difference", "verdict")
    return [head, *(_cells(verdict) for verdict in verdicts)]


def _cells(verdict: Verdict) -> tuple[str, ...]:
    """Row, test, published, measured, difference, verdict."""
    published = [f"{value:.1f}" for value in published_figures(verdict.row, verdict.tta).values()]
    compared = verdict.outcome != "not the whole val set"
    columns = (
        " / ".join(published) if compared else "-",
        " / ".join(f"{figure.measured:.2f}" for figure in verdict.figures) or "-",
        " / ".join(f"{figure.difference:+.2f}" for figure in verdict.figures if compared) or "-",
    )
    return (verdict.row, how_tested(verdict.tta), *columns, verdict.text)
