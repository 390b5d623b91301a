"""Measure each step from ResNet-50 to ConvNeXt-T: latency, kept activations, MACs and parameters.

    OMP_NUM_THREADS=1 python tools/dev/roadmap.py -o docs
    python tools/dev/roadmap.py --size 512 512 --repeats 3 -o work_dirs/roadmap
    python tools/dev/roadmap.py --redraw -o docs      # table and figure again, without measuring

Writes roadmap.json, roadmap.png and roadmap.svg into the folder, updates the table in its roadmap.md if there
is one, and prints the table.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from convnext_dense.errors import UserError

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from convnext_dense.mm.errors import one_line_errors
from convnext_dense.models.roadmap import STEPS
from convnext_dense.reports.roadmap import Report, format_markdown, measure, plot_report, replace_table
from convnext_dense.support.files import write_json, write_text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        action="append",
        metavar=("H", "W"),
        help="image size; may be given more than once (default: 512 512 and 800 1280); "
        "activations are counted at the first",
    )
    parser.add_argument(
        "--steps", nargs="+", choices=tuple(STEPS), default=tuple(STEPS), metavar="STEP", help="default: all"
    )
    parser.add_argument("--repeats", type=int, default=7, help="interleaved repeats (default: 7)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument(
        "--redraw", action="store_true", help="read the folder's roadmap.json and measure nothing"
    )
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("work_dirs/roadmap"), help="folder to write into"
    )
    args = parser.parse_args()
    with one_line_errors():
        report = read_report(args.out / "roadmap.json") if args.redraw else run(args)
        write(report, args.out)


def run(args: argparse.Namespace) -> Report:
    sizes = [tuple(size) for size in args.size or [(512, 512), (800, 1280)]]
    if args.repeats < 1 or min(min(size) for size in sizes) < 32:
        raise UserError("--repeats takes 1 or more, --size 32 pixels or more per side")
    return measure(sizes, args.repeats, args.device, tell, args.steps)


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def read_report(path: Path) -> Report:
    if not path.is_file():
        raise UserError(f"--redraw: no {path}; measure first, without --redraw")
    return Report.from_record(json.loads(path.read_text()))


def write(report: Report, folder: Path) -> None:
    table = format_markdown(report)
    write_json(folder / "roadmap.json", report.record())
    for suffix in ("png", "svg"):
        plot_report(folder / f"roadmap.{suffix}", report)
    document = folder / "roadmap.md"
    if document.is_file():
        write_text(document, replace_table(document.read_text(), table))
    print(table, end="")


if __name__ == "__main__":
    main()
