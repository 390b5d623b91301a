"""Pictures of runs and results, as PNG and SVG.

    python tools/plot.py curves work_dirs/A work_dirs/B          # losses, learning rates, AP or mIoU
    python tools/plot.py cost cascade                            # accuracy against MACs, parameters, latency
    python tools/plot.py pr work_dirs/A                          # precision over recall, by class and size
    python tools/plot.py confusion EVALUATION                    # what is taken for what
    python tools/plot.py classes EVALUATION                      # AP or IoU of each class
    python tools/plot.py worst EVALUATION                        # what the model gets most wrong

EVALUATION is a run's work folder, whose newest evaluation is taken, or the folder that tools/test.py names.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from convnext_dense.evaluation.detection_errors import Scenes, confusion, mistakes, read_scenes
from convnext_dense.evaluation.folder import Evaluation
from convnext_dense.reports import charts
from convnext_dense.reports.curves import draw_curves, read_log
from convnext_dense.reports.gallery import draw_mistakes, draw_worst_maps
from convnext_dense.reports.style import save_figure
from convnext_dense.results import paper
from convnext_dense.results.records import read_latencies, read_records

TABLES: dict[str, tuple[Sequence[paper.Row], str]] = {
    "mask_rcnn": ([row for row in paper.COCO if row.method == "Mask R-CNN"], "COCO box AP, Mask R-CNN"),
    "cascade": ([row for row in paper.COCO if row.method != "Mask R-CNN"], "COCO box AP, Cascade Mask R-CNN"),
    "upernet": (list(paper.ADE20K), "ADE20K mIoU, several scales, UperNet"),
    "imagenet": (list(paper.IMAGENET), "ImageNet top-1"),
}
Draw = Callable[[argparse.Namespace], Figure]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_curves(subcommands)
    add_cost(subcommands)
    for name, draw, text in (
        ("pr", draw_pr, "precision over recall of a detector"),
        ("classes", draw_bars, "AP or IoU of each class"),
    ):
        add_evaluation(subcommands, name, draw, text)
    chosen = add_evaluation(subcommands, "confusion", draw_confusion, "what is taken for what")
    chosen.add_argument("--most", type=int, default=20, help="classes shown, the most confused (default: 20)")
    chosen.add_argument("--score-thr", type=float, default=0.3, help="detections counted (default: 0.3)")
    chosen = add_evaluation(subcommands, "worst", draw_worst, "what the model gets most wrong")
    chosen.add_argument("--count", type=int, default=12, help="pictures (default: 12)")
    chosen.add_argument("--score-thr", type=float, default=0.3, help="detections looked at (default: 0.3)")
    args = parser.parse_args(argv)
    try:
        figure = args.draw(args)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    for path in paths(args.out):
        save_figure(figure, path)
        print(path)


def paths(out: Path) -> list[Path]:
    """The name itself if it has a suffix, else its PNG and SVG names."""
    return (
        [out]
        if out.suffix in (".png", ".svg", ".pdf")
        else [Path(f"{out}.{kind}") for kind in ("png", "svg")]
    )


def add_command(subcommands: Any, name: str, draw: Draw, text: str) -> argparse.ArgumentParser:
    """Declare a subcommand; ``subcommands`` is the result of ``add_subparsers``."""
    parser = subcommands.add_parser(name, help=text)
    parser.add_argument(
        "-o", "--out", type=Path, default=Path(f"plots/{name}"), metavar="FILE",
        help=f"without a suffix both PNG and SVG (default: plots/{name})",
    )  # fmt: skip
    parser.set_defaults(draw=draw)
    return parser


def add_evaluation(subcommands: Any, name: str, draw: Draw, text: str) -> argparse.ArgumentParser:
    parser = add_command(subcommands, name, draw, text)
    parser.add_argument(
        "evaluation", type=Path, metavar="EVALUATION", help="folder of a run, or of one of its evaluations"
    )
    return parser


def add_curves(subcommands: Any) -> None:
    parser = add_command(subcommands, "curves", draw_runs, "losses, learning rates, AP or mIoU")
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="work folders, or scalars.json files"
    )
    parser.add_argument("--names", nargs="+", metavar="NAME", help="run names (default: their folders)")


def add_cost(subcommands: Any) -> None:
    parser = add_command(subcommands, "cost", draw_cost, "accuracy against MACs, parameters and latency")
    parser.add_argument("table", choices=tuple(TABLES), help="rows of the paper")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR",
        help="records: measured models are marked, measured latencies make a panel (default: results)",
    )  # fmt: skip


def draw_runs(args: argparse.Namespace) -> Figure:
    names = args.names or unique_names(args.runs)
    if len(names) != len(args.runs):
        raise ValueError(f"--names: {len(names)} names for {len(args.runs)} runs")
    return draw_curves({name: read_log(run) for name, run in zip(names, args.runs, strict=True)})


def unique_names(runs: list[Path]) -> list[str]:
    """Last folders of the runs, or whole paths where those are the same."""
    short = [run.resolve().name if run.is_dir() else run.stem for run in runs]
    return short if len(set(short)) == len(short) else [str(run) for run in runs]


def draw_cost(args: argparse.Namespace) -> Figure:
    rows, ylabel = TABLES[args.table]
    latencies, where = read_latencies(read_records(args.results, "speed"))
    points = charts.paper_points(rows, latencies)
    if args.table != "imagenet":
        measured = read_records(args.results, "accuracy")
        method = [r for r in measured if r["config"].startswith(f"{args.table}/") or r.get("row") is None]
        points += charts.measured_points(method, rows, latencies)
    return charts.draw_cost(points, f"{ylabel}, %", where)


def draw_pr(args: argparse.Namespace) -> Figure:
    evaluation = Evaluation.load(args.evaluation)
    if evaluation.task != "detection":
        raise ValueError(f"{args.evaluation} is a segmentation, which has no precision-recall curve")
    return charts.draw_precision_recall(evaluation.precisions())


def draw_bars(args: argparse.Namespace) -> Figure:
    evaluation = Evaluation.load(args.evaluation)
    return charts.draw_classes(evaluation.per_class, "box AP" if evaluation.task == "detection" else "IoU")


def draw_confusion(args: argparse.Namespace) -> Figure:
    evaluation = Evaluation.load(args.evaluation)
    if evaluation.task == "segmentation":
        return charts.draw_confusion(evaluation.arrays["confusion"], evaluation.classes, "pixels", args.most)
    names = [*evaluation.classes, charts.NOTHING]
    unit = f"objects (detections from score {args.score_thr:g}, IoU 0.5)"
    return charts.draw_confusion(confusion(scenes_of(evaluation, args.score_thr)), names, unit, args.most)


def draw_worst(args: argparse.Namespace) -> Figure:
    evaluation = Evaluation.load(args.evaluation)
    if evaluation.task == "segmentation":
        return draw_worst_maps(evaluation, args.count)
    scenes = scenes_of(evaluation, args.score_thr)
    return draw_mistakes(evaluation, scenes, mistakes(scenes)[: args.count])


def scenes_of(evaluation: Evaluation, score: float) -> Scenes:
    return read_scenes(evaluation.annotations, evaluation.detections(), evaluation.classes, score)
