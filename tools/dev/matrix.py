"""Build the environments of the matrix, try this package in each, and write the page: `make matrix`.

    python tools/dev/matrix.py                     # all rows: what has no verdict on this code
    python tools/dev/matrix.py onedl oldest --force
    python tools/dev/matrix.py core --no-docs      # exit status 1 if a check fails; the page stays as it is

Logs of all checks stay in --out. A row is recorded when all its checks have run. Where only test modules
changed since, they run alone; a row with a failed check is tried whole again.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from matrix_environments import FOLDER, ROOT, ROWS, environment

from convnext_dense.bench import compatibility as checks
from convnext_dense.bench.compatibility import RECIPES, Check, Verdict
from convnext_dense.data.synthetic import make_shapes
from convnext_dense.errors import InstallationError
from convnext_dense.support.files import write_json, write_text

RECORD, PAGE = ROOT / "docs" / "compatibility.json", ROOT / "docs" / "compatibility.md"
BASE = "official"  # training begun here goes on in each other row, and the other way round


def needs(row: str) -> checks.Needs:
    """What the environment of a row has."""
    return "core" if row == "core" else "stack"


class Matrix:
    """The folders of a run, and what all rows share."""

    def __init__(self, out: Path, root: Path, key: str) -> None:
        self.out, self.root, self.key = out.resolve(), root, key
        self.data = self.out / "shapes"
        if not self.data.exists():
            make_shapes(self.data, train=8, val=4, size=96)

    def folder(self, row: str) -> Path:
        """What the checks of ``row`` write; another folder for other code."""
        return self.out / f"{row}-{self.key}"

    def python(self, row: str) -> Path:
        """The Python of a row's environment, which is made on first use."""
        with (self.out / f"{row}-environment.log").open("a") as log:
            return environment(row, self.root, log)

    def run(self, row: str, check: Check) -> Verdict:
        """Run one check in the environment of ``row``."""
        log = self.folder(row) / "logs" / f"{check.name.replace(' ', '_').replace('/', '_')}.log"
        return checks.run_check(check, self.python(row), ROOT, log)

    def sums(self, row: str) -> dict[str, str]:
        """The test modules of ``row`` as they are now."""
        return checks.test_sums(ROOT, needs(row))

    def verdicts(self, row: str) -> Iterator[Verdict]:
        """Run all checks of ``row``, then resume in it what the base began, and in the base what it began."""
        for check in checks.checks_of(needs(row), self.data, self.folder(row)):
            yield self.run(row, check)
        if row in (BASE, "core"):
            return
        for recipe in RECIPES:
            if not checks.begun(self.folder(BASE), recipe).is_dir():
                self.run(BASE, checks.train_check(recipe, self.data, self.folder(BASE)))
            yield self.resumed(recipe, BASE, row, f"resume {recipe} from {BASE}")
            yield self.resumed(recipe, row, BASE, f"resume {recipe} in {BASE}")

    def resumed(self, recipe: str, begun_in: str, row: str, name: str) -> Verdict:
        """Go on in ``row`` with a copy of what another row began."""
        begun = checks.begun(self.folder(begun_in), recipe)
        copy = self.folder(row) / f"from_{begun_in}" / recipe
        if not begun.is_dir():
            return Verdict(name, False, 0.0, f"{begun_in} wrote no {begun}")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(begun, copy)
        return self.run(row, checks.resume_check(recipe, self.data, copy, name))


def measure(matrix: Matrix, row: str) -> dict:
    """Run all checks of a row, print each verdict, and return the record.

    Raises:
        InstallationError: the environment cannot be made.
    """
    print(f"== {row}: environment {matrix.python(row).parents[1]}", flush=True)
    sums, verdicts = matrix.sums(row), []
    for verdict in matrix.verdicts(row):
        show(verdict)
        verdicts.append(verdict)
    versions = json.loads(checks.versions_of(matrix.python(row)))
    return checks.record_of(row, matrix.key, sums, date.today().isoformat(), versions, verdicts)


def measure_again(matrix: Matrix, record: dict, files: list[str]) -> dict:
    """Run the test modules that changed since ``record``, and return the new record."""
    row = record["row"]
    print(f"== {row}: {len(files)} changed test modules", flush=True)
    sums, verdict = matrix.sums(row), matrix.run(row, checks.tests_again(files))
    show(verdict)
    return checks.updated(record, sums, date.today().isoformat(), verdict)


def show(verdict: Verdict) -> None:
    mark = "ok  " if verdict.passed else "FAIL"
    print(f"{mark} {verdict.check:<32} {verdict.seconds:6.0f} s  {verdict.detail[:120]}", flush=True)


def page_of(matrix: Matrix, records: dict) -> str:
    """The page as text."""
    current = [
        row for row in ROWS if checks.changed_tests(records.get(row), matrix.key, matrix.sums(row)) == []
    ]
    return checks.page(records, {name: ROWS[name].text for name in ROWS}, current)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", help=f"default: all of {', '.join(ROWS)}")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/matrix"), help="logs and runs")
    parser.add_argument("--root", type=Path, default=FOLDER, help=f"environments (default: {FOLDER.name}/)")
    parser.add_argument("--force", action="store_true", help="also rows with a verdict on this code")
    parser.add_argument("--no-docs", action="store_true", help="leave the record and the page as they are")
    args = parser.parse_args()
    if unknown := sorted(set(args.rows) - set(ROWS)):
        parser.error(f"no rows {unknown}; there are {', '.join(ROWS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    matrix = Matrix(args.out, args.root, checks.code_key(ROOT))
    records = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    failed, start = [], time.monotonic()
    for row in args.rows or ROWS:
        changed = checks.changed_tests(records.get(row), matrix.key, matrix.sums(row))
        if args.force or (row in records and checks.failed_checks(records[row])):
            changed = None
        if changed == []:
            print(f"== {row}: has a verdict on this code (--force tries again)")
            continue
        try:
            record = measure_again(matrix, records[row], changed) if changed else measure(matrix, row)
        except InstallationError as error:
            print(f"FAIL {row}: {error}", flush=True)
            failed.append(row)
            continue
        records[row] = record
        failed += [row] if checks.failed_checks(record) else []
        if not args.no_docs:
            write_json(RECORD, records)
            write_text(PAGE, page_of(matrix, records))
    print(
        f"{time.monotonic() - start:.0f} s; "
        + (f"failed: {', '.join(failed)}" if failed else "all rows work")
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
