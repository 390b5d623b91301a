"""Write the model tables of README.md and docs/models.md from paper.py and results/: make tables"""

import argparse
import difflib
import sys
from pathlib import Path

from convnext_dense.results.records import read_records
from convnext_dense.results.tables import generated
from convnext_dense.support.files import write_text

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 where a table is outdated"
    )
    parser.add_argument(
        "--results", type=Path, default=ROOT / "results", metavar="DIR", help="records (default: results)"
    )
    args = parser.parse_args()
    outdated = 0
    for path, text in generated(ROOT, read_records(args.results, "accuracy")).items():
        current = path.read_text() if path.is_file() else ""
        if text == current:
            continue
        outdated += 1
        if args.check:
            sys.stdout.writelines(difflib.unified_diff(*(t.splitlines(True) for t in (current, text)), n=0))
        else:
            write_text(path, text)
            print(f"wrote {path.relative_to(ROOT)}")
    if outdated and args.check:
        raise SystemExit("the model tables are outdated: run `make tables`")


if __name__ == "__main__":
    main()
