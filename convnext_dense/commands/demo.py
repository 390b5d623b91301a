"""The demo: make synthetic scenes, train a small detector and a small segmentor, evaluate, draw.

Everything is written to one folder (default: work_dirs/demo): detection.png and segmentation.png show
predictions beside the truth, curves.png the losses, metrics.json the numbers. The exit status is 1 when a
target is missed.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from convnext_dense.data import synthetic
from convnext_dense.data.image_io import load_label_map, load_rgb
from convnext_dense.mm.engine.checkpoint_io import newest_checkpoint
from convnext_dense.mm.errors import one_line_errors
from convnext_dense.reports import sheets
from convnext_dense.reports.curves import draw_losses, read_log
from convnext_dense.reports.style import save_figure
from convnext_dense.support.files import write_json
from convnext_dense.support.text_tables import aligned

PICTURES = 12  # validation scenes per sheet


@dataclass(frozen=True)
class Target:
    """One number of the report: a metric of a task in percent, and its target in [0, 1]."""

    task: str
    metric: str
    least: float


TARGETS = (
    Target("detection", "box AP", 0.70),
    Target("detection", "box AP50", 0.92),
    Target("detection", "mask AP50", 0.92),
    Target("segmentation", "mIoU", 0.85),
)


@dataclass(frozen=True)
class Task:
    """A recipe with its data and its part of the output folder."""

    name: str
    config: str
    data: Path
    images: Path
    out: Path

    @property
    def checkpoint(self) -> Path:
        """The newest complete checkpoint of the work folder."""
        path, damaged = newest_checkpoint(self.out)
        if path is None:
            raise SystemExit(f"error: no checkpoint in {self.out}" + "".join(f"; {line}" for line in damaged))
        return path


def tasks(out: Path) -> tuple[Task, Task]:
    """Detection and segmentation below the output folder ``out``."""
    data = out / "shapes"
    coco, ade = data / "coco", data / "ade20k"
    return (
        Task("detection", "demo/mask_rcnn_shapes", coco, coco / "val2017", out / "detection"),
        Task(
            "segmentation",
            "demo/upernet_shapes",
            ade,
            ade / "images/validation",
            out / "segmentation",
        ),
    )


def run_tool(name: str, *args: object) -> None:
    """Run one of our command lines as a user would, on one thread unless the environment sets another number.

    On maps this small a second thread gains little. If another process uses its core, each of the many
    short operations waits for it, and a step takes twenty times as long.

    Raises:
        SystemExit: it failed; its own message is on the terminal.
    """
    command = [sys.executable, "-m", "convnext_dense", name, *map(str, args)]
    if status := subprocess.run(command, env={"OMP_NUM_THREADS": "1", **os.environ}).returncode:
        raise SystemExit(status)


def learn(task: Task, steps: int | None) -> dict[str, float]:
    """Train and evaluate a task and return its metrics. ``steps`` replaces the config's iterations."""
    # Evaluation is left to tools/test.py: training would evaluate after its last step, too.
    overrides = ["train_cfg.val_begin=1000000"]
    if steps:
        overrides.append(f"train_cfg.max_iters={steps}")
    data = ("--work-dir", task.out, "--data-root", task.data)
    run_tool("train", task.config, *data, "--cfg-options", *overrides)
    records = ("--results", task.out.parent / "results")
    run_tool("test", task.config, task.checkpoint, *data, *records, "--out", task.out / "metrics.json")
    return json.loads((task.out / "metrics.json").read_text())


# ------------------------------------------------------------------------------------------- pictures


def predict(task: Task) -> tuple[list[Path], Path]:
    """Predict the first validation scenes; return their images and the folder of the results."""
    images, out = sorted(task.images.iterdir())[:PICTURES], task.out / "predictions"
    run_tool("predict", task.config, task.checkpoint, *images, "--out", out, "--score-thr", 0.5)
    return images, out


def draw_detection(task: Task, path: Path) -> None:
    """Predicted boxes and masks beside the annotated ones."""
    images, folder = predict(task)
    found = json.loads((folder / "predictions.json").read_text())
    coco = COCO(str(task.data / "annotations" / "instances_val2017.json"))
    annotations = {image["file_name"]: coco.imgToAnns[image["id"]] for image in coco.imgs.values()}
    truths = [
        [
            sheets.Instance(a["category_id"] - 1, coco.annToMask(a) > 0, a["bbox"])
            for a in annotations[image.name]
        ]
        for image in images
    ]
    predictions = [
        [
            sheets.Instance(p["category_id"], coco_mask.decode(p["segmentation"]) > 0, p["bbox"], p["score"])
            for p in found[str(image)]
        ]
        for image in images
    ]
    sheets.detection_sheet(
        path, [load_rgb(image) for image in images], truths, predictions, synthetic.CLASSES
    )


def draw_segmentation(task: Task, path: Path) -> None:
    """Predicted label maps beside the annotated ones."""
    images, folder = predict(task)
    maps = task.data / "annotations" / "validation"
    truths = [load_label_map(maps / f"{image.stem}.png") - 1 for image in images]
    predictions = [load_label_map(folder / f"{image.stem}_labels.png") for image in images]
    sheets.segmentation_sheet(
        path, [load_rgb(image) for image in images], truths, predictions, synthetic.SEGMENTATION_CLASSES
    )


# --------------------------------------------------------------------------------------------- report


def report(metrics: dict[str, dict[str, float]]) -> tuple[str, bool]:
    """A table of the metrics (task -> name -> value) against `TARGETS`, and whether all are reached."""
    rows = [("", "reached", "target", "")]
    good = True
    for target in TARGETS:
        value = metrics[target.task][target.metric] / 100
        good &= value >= target.least
        verdict = "ok" if value >= target.least else "MISSED"
        rows.append((f"{target.task} {target.metric}", f"{value:.3f}", f"{target.least:.2f}", verdict))
    return aligned(rows, "lrrl"), good


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("work_dirs/demo"), help="default: work_dirs/demo")
    parser.add_argument("--train", type=int, default=1000, help="training scenes (default: 1000)")
    parser.add_argument("--val", type=int, default=120, help="validation scenes (default: 120)")
    parser.add_argument("--steps", type=int, help="number of training steps; targets are then not checked")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with one_line_errors():
        run(args)


def run(args: argparse.Namespace) -> None:
    """Make the data, train, evaluate, draw and judge."""
    start = time.monotonic()

    def say(text: str) -> None:
        print(f"\n== {text} ({time.monotonic() - start:.0f} s)", flush=True)

    say(f"making {args.train} + {args.val} scenes of shapes")
    synthetic.make_shapes(args.out / "shapes", args.train, args.val)
    detection, segmentation = tasks(args.out)
    metrics = {}
    for task in (detection, segmentation):
        say(f"{task.name}: training from scratch")
        metrics[task.name] = learn(task, args.steps)
    say("drawing")
    logs = {task.name: read_log(task.out) for task in (detection, segmentation)}
    save_figure(draw_losses(logs), args.out / "curves.png")
    draw_detection(detection, args.out / "detection.png")
    draw_segmentation(segmentation, args.out / "segmentation.png")
    table, good = report(metrics)
    write_json(args.out / "metrics.json", metrics)
    say("done")
    print(table)
    print(f"pictures and metrics: {args.out}")
    raise SystemExit(0 if good or args.steps else 1)
