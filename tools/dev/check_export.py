"""Export the models of the demo and compare the files with the checkpoints: `make deploy`, after `make demo`.

    python tools/dev/check_export.py --python BARE    # a Python with numpy, Pillow and onnxruntime alone

For each model and precision: AP or mIoU by ONNX Runtime beside PyTorch's. In full precision, the predictions
of the runtime under BARE, to which this package is installed without its requirements, must be those of
`tools/predict.py`, to the last digit of its JSON file.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from check_install import build, output, pip
from pycocotools import mask as coco_mask

from convnext_dense.commands.demo import Task, tasks
from convnext_dense.errors import InstallationError
from convnext_dense.export.runtime import Predictor as Runtime
from convnext_dense.mm.apis.predict import Predictor as Trained
from convnext_dense.mm.config.load import load_config
from convnext_dense.support.text_tables import aligned

FLAGS = {"fp32": [], "fp16": ["--half"], "int8": ["--int8"]}
LOSSES = {"fp32": 0.1, "fp16": 0.1, "int8": 1.0}  # points that a precision may lose
FIGURES = {"detection": ("box AP", "mask AP"), "segmentation": ("mIoU",)}
PICTURES = 12
WARM_UPS, REPEATS = 5, 40


def command(*words: object) -> None:
    """Run a subcommand of this clone.

    Raises:
        InstallationError: it failed; the message has the end of what it said.
    """
    line = [sys.executable, "-W", "ignore", "-m", "convnext_dense", *map(str, words)]
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise InstallationError(f"{' '.join(line)} failed:\n{done.stdout[-3000:]}")


def measured(task: Task, file: Path, out: Path) -> dict:
    """Record of the evaluation of an exported file."""
    results = out / file.stem
    shutil.rmtree(results, ignore_errors=True)
    command(
        *("benchmark", "accuracy", "--engine", "onnx", file, "--data-root", task.data, "--again"),
        *("--work-dir", results, "--results", results),
    )
    return json.loads((results / "accuracy.jsonl").read_text().splitlines()[-1])


def same_predictions(task: Task, file: Path, bare: Path, out: Path) -> bool:
    """Whether the runtime under ``bare`` predicts what the checkpoint does, by their JSON files."""
    images = sorted(task.images.iterdir())[:PICTURES]
    here, there = out / f"{task.name}_pytorch", out / f"{task.name}_runtime"
    for folder in (here, there):
        shutil.rmtree(folder, ignore_errors=True)
    command("predict", task.config, task.checkpoint, *images, "--out", here)
    output(bare, "-m", "convnext_dense.export.runtime", file.resolve(), *images, "--out", there.resolve())
    one, two = (json.loads((folder / "predictions.json").read_text()) for folder in (here, there))
    return one.keys() == two.keys() and all(close(one[image], two[image]) for image in one)


def close(one: list | dict, two: list | dict) -> bool:
    """Whether two predictions for an image differ by no more than the last digit of their numbers."""
    if isinstance(one, dict):  # shares of the classes
        return one.keys() == two.keys() and all(abs(one[name] - two[name]) <= 2e-4 for name in one)
    return len(one) == len(two) and all(map(_same_object, one, two))


def _same_object(one: dict, two: dict) -> bool:
    sides = [abs(a - b) for a, b in zip(one["bbox"], two["bbox"], strict=True)]
    overlap = coco_mask.iou([one["segmentation"]], [two["segmentation"]], [False])[0, 0]
    same_class = one["category_id"] == two["category_id"]
    return same_class and max(sides) <= 0.02 and abs(one["score"] - two["score"]) <= 2e-4 and overlap > 0.98


def rows_of(task: Task, precision: str, out: Path) -> tuple[Path, list[tuple[str, ...]], bool]:
    """Export in one precision: the file, rows of the table, and whether no figure loses too much."""
    file = out / f"{task.name}_{precision}.onnx"
    data = ["--data-root", task.data] if precision == "int8" else []
    command("export", task.config, task.checkpoint, "-o", file, *FLAGS[precision], *data)
    record = measured(task, file, out)
    expected = json.loads((task.out.parent / "metrics.json").read_text())[task.name]
    rows, passed = [], True
    for name in FIGURES[task.name]:
        lost = expected[name] - record["metrics"][name]
        passed &= lost <= LOSSES[precision] and (precision == "int8" or abs(lost) <= LOSSES[precision])
        size = f"{file.stat().st_size / 2**20:.1f}"
        found = f"{record['metrics'][name]:.2f}"
        rows.append((task.config, precision, size, name, f"{expected[name]:.2f}", found, f"{-lost:+.2f}"))
    return file, rows, passed


def cpu_times(task: Task, files: list[Path]) -> list[tuple[str, ...]]:
    """Median CPU milliseconds of a whole prediction, on one thread, interleaved: PyTorch, then each file."""
    torch.set_num_threads(1)
    picture = sorted(task.images.iterdir())[0]
    trained = Trained(load_config(task.config), str(task.checkpoint))
    exported = {file.name: Runtime(file, "onnxruntime", threads=1) for file in files}
    subjects = {"PyTorch, fused": trained, **exported}
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for repeat in range(WARM_UPS + REPEATS):
        for name, predict in subjects.items():
            start = time.process_time()
            predict(picture)
            if repeat >= WARM_UPS:
                times[name].append(1000 * (time.process_time() - start))
    return [(task.config, name, f"{statistics.median(values):.1f}") for name, values in times.items()]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--demo", type=Path, default=Path("work_dirs/demo"), help="folder of `make demo`")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/export"), help="files and predictions")
    parser.add_argument("--python", type=Path, help="a Python without torch")
    parser.add_argument("--precisions", nargs="+", choices=FLAGS, default=list(FLAGS))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    table = [("model", "precision", "MiB", "figure", "PyTorch", "ONNX Runtime", "difference")]
    failed = []
    if args.python:
        args.python = args.python.absolute()  # not resolved: the link is what makes it an environment
        with tempfile.TemporaryDirectory() as folder:
            pip(args.python, "install", "--no-deps", "--force-reinstall", build(Path(folder)))
    speeds = [("model", "CPU ms of a picture, medians", "")]
    for task in tasks(args.demo.resolve()):
        files = []
        for precision in args.precisions:
            file, rows, passed = rows_of(task, precision, args.out.resolve())
            table += rows
            files.append(file)
            failed += [] if passed else [f"{file.name}: accuracy"]
            if precision == "fp32" and args.python:
                same = same_predictions(task, file, args.python, args.out)
                print(f"{file.name} without torch: predictions {'equal' if same else 'DIFFER'}", flush=True)
                failed += [] if same else [f"{file.name}: predictions without torch"]
        speeds += cpu_times(task, files)
    print(aligned(table), aligned(speeds), sep="\n\n")
    print("failed: " + ", ".join(failed) if failed else "all files hold")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
