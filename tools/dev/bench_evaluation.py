"""Time and memory of COCO's figures at the size of val2017, with each evaluator.

    python tools/dev/bench_evaluation.py --like FOLDER/annotations/instances_val2017.json --out /tmp/large
    python tools/dev/bench_evaluation.py --images 500        # scenes of shapes

The annotations of the given file (default: synthetic scenes) are repeated until there are 5,000 images. Each
image with annotations has 100 detections, the most that the protocol counts: its own objects, moved by a few
pixels, one in four with another class. Every figure is from a process of its own, with one thread: CPU
seconds with imports and the reading of both files, and GiB.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from bench_annotations import figures, repeat, run
from pycocotools import mask as rle

from convnext_dense.data.synthetic import make_shapes
from convnext_dense.evaluation.coco_ap import available_evaluators, average_precision, read_detections
from convnext_dense.support.files import write_json
from convnext_dense.support.text_tables import aligned

PER_IMAGE = 100
SHIFT = 3.0  # standard deviation of a corner, pixels


def detections_of(file: Path) -> list[dict]:
    """Detections in COCO's result format with boxes and masks, the same in each call."""
    content, random = json.loads(file.read_text()), np.random.default_rng(0)
    by_image: dict[int, list[dict]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        if isinstance(annotation["segmentation"], list):  # no crowds
            by_image[annotation["image_id"]].append(annotation)
    labels = [category["id"] for category in content["categories"]]
    found = []
    for image in content["images"]:
        truth = by_image[image["id"]]
        for turn in random.integers(len(truth), size=PER_IMAGE) if truth else ():
            shift = random.normal(0, SHIFT, 2)
            polygons = [(np.reshape(part, (-1, 2)) + shift).ravel() for part in truth[turn]["segmentation"]]
            mask = rle.merge(rle.frPyObjects(polygons, image["height"], image["width"]))
            label = truth[turn]["category_id"] if random.random() < 0.75 else int(random.choice(labels))
            found.append(
                dict(
                    image_id=image["id"],
                    category_id=label,
                    bbox=rle.toBbox(mask).tolist(),
                    score=float(random.random()),
                    segmentation=dict(size=mask["size"], counts=mask["counts"].decode()),
                )
            )
    return found


def measure(evaluator: str, file: Path) -> dict[str, float]:
    """Figures of one evaluator, in this process, with the average precisions that it gives."""
    found = read_detections(file.with_name("detections.json"))
    aps = {kind: average_precision(file, found, kind, evaluator).ap() for kind in ("bbox", "segm")}
    return {**figures(), **aps}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--like", type=Path, metavar="FILE", help="annotation file to repeat")
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("work_dirs/bench_evaluation"))
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(args.case, args.like)))
        return
    source = args.like
    if source is None:
        make_shapes(args.out / "shapes", train=1, val=50, size=96)
        source = args.out / "shapes/coco/annotations/instances_val2017.json"
    repeat(source, args.images, args.out)
    file = args.out / "annotations" / source.name
    found = detections_of(file)
    write_json(file.with_name("detections.json"), found)
    print(f"{len(json.loads(file.read_text())['images'])} images, {len(found)} detections")
    rows = [("evaluator", "cpu s", "peak", "box AP", "mask AP")]
    for _ in range(args.repeats):
        for evaluator in available_evaluators():
            took = run(evaluator, file, __file__)
            rows.append((evaluator, *(f"{took[key]:.2f}" for key in ("cpu s", "peak", "bbox", "segm"))))
            print(rows[-1], file=sys.stderr, flush=True)
    print(aligned(rows))


if __name__ == "__main__":
    main()
