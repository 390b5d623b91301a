"""COCO's average precision from two files: annotations, and detections in COCO's result format.

pycocotools is the default and the reference. faster-coco-eval, if installed, gives the same
precisions in a fraction of the time.
"""

import contextlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from convnext_dense.errors import ArgumentError

Evaluator = Literal["pycocotools", "faster-coco-eval"]
IouType = Literal["bbox", "segm"]

AREAS = ("all", "small", "medium", "large")
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MAX_DETECTIONS = [1, 10, 100]


class Precision(NamedTuple):
    """Precisions of one kind of detection.

    Attributes:
        classes: names, in the order of ``values``.
        values: (10 IoU thresholds, 101 recalls, classes, 4 areas), in [0, 1]; -1 where there is no object.
    """

    classes: tuple[str, ...]
    values: np.ndarray

    def ap(self, iou: float | None = None, area: str = "all", label: int | None = None) -> float:
        """Mean precision in percent; NaN if there is no object.

        Args:
            iou: threshold; ``None`` averages 0.50 to 0.95.
            area: one of :data:`AREAS`.
            label: index of a class; ``None`` averages over all.
        """
        chosen = self.values[..., AREAS.index(area)]
        if iou is not None:
            chosen = chosen[[int(np.abs(IOU_THRESHOLDS - iou).argmin())]]
        if label is not None:
            chosen = chosen[..., label]
        chosen = chosen[chosen > -1]
        return float(100 * chosen.mean()) if chosen.size else float("nan")

    def curve(self, iou: float = 0.5, area: str = "all", label: int | None = None) -> np.ndarray | None:
        """(101,) precision over :data:`RECALLS`, averaged over the classes that have objects, or ``None``."""
        chosen = self.values[int(np.abs(IOU_THRESHOLDS - iou).argmin()), ..., AREAS.index(area)]
        chosen = chosen[:, [label]] if label is not None else chosen
        there = (chosen > -1).all(0)
        return chosen[:, there].mean(1) if there.any() else None


def available_evaluators() -> tuple[str, ...]:
    """Evaluators that can be imported, the reference first."""
    names = {"pycocotools": "pycocotools.cocoeval", "faster-coco-eval": "faster_coco_eval"}
    found = []
    for name, module in names.items():
        with contextlib.suppress(ImportError, OSError, RuntimeError):  # absent, or a broken build
            import_module(module)
            found.append(name)
    return tuple(found)


def load_evaluator(name: Evaluator) -> tuple[type, type]:
    """The classes ``COCO`` and ``COCOeval`` of an evaluator.

    Raises:
        ValueError: an unknown name, or one that is not installed.
    """
    if name not in get_args(Evaluator):
        raise ArgumentError(f"evaluator={name!r}; use one of {get_args(Evaluator)}")
    if name not in available_evaluators():
        raise ArgumentError(f"evaluator={name!r} is not installed: pip install {name}")
    if name == "pycocotools":
        return import_module("pycocotools.coco").COCO, import_module("pycocotools.cocoeval").COCOeval
    module = import_module("faster_coco_eval")
    return module.COCO, module.COCOeval_faster


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the libraries, which both print while they index."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def average_precision(
    annotations: str | Path,
    detections: Sequence[dict],
    iou_type: IouType,
    evaluator: Evaluator = "pycocotools",
    classes: Sequence[str] | None = None,
    images: Sequence[int] | None = None,
) -> Precision:
    """COCO's protocol: ten IoU thresholds, at most 100 detections per image, four ranges of area.

    Args:
        annotations: file in COCO's format.
        detections: in COCO's result format; ``segm`` takes the area of the mask, so boxes are removed for it.
        iou_type: ``bbox`` or ``segm``, the regions whose overlap counts.
        evaluator: which library; both give the same.
        classes: names of the categories that count, in any order; all by default.
        images: ids of the evaluated images; all by default.

    Raises:
        ValueError: an unknown or absent evaluator.
    """
    coco_class, eval_class = load_evaluator(evaluator)
    with _quiet():
        truth = coco_class(str(annotations))
        categories = [
            category
            for category in truth.dataset["categories"]
            if classes is None or category["name"] in set(classes)
        ]
        found = _load_results(coco_class, truth, detections, iou_type)
        judge = eval_class(truth, found, iou_type)
        judge.params.catIds = [category["id"] for category in categories]
        judge.params.imgIds = sorted(truth.imgs if images is None else images)
        judge.params.maxDets = MAX_DETECTIONS
        judge.evaluate()
        judge.accumulate()
    values = np.asarray(judge.eval["precision"], dtype=np.float64)[..., -1]
    # the libraries sort the category ids
    order = np.argsort(np.argsort([category["id"] for category in categories]))
    return Precision(tuple(category["name"] for category in categories), values[:, :, order])


def _load_results(coco_class: type, truth: Any, detections: Sequence[dict], iou_type: IouType) -> Any:
    """Do the same as ``loadRes``, which fails if nothing was detected."""
    left_out = ("bbox",) if iou_type == "segm" else ("segmentation",)
    entries = [{k: v for k, v in entry.items() if k not in left_out} for entry in detections]
    if entries:
        return truth.loadRes(entries)
    empty = coco_class()
    empty.dataset = {**{k: truth.dataset[k] for k in ("images", "categories")}, "annotations": []}
    empty.createIndex()
    return empty


def named_precisions(precisions: Mapping[str, Precision]) -> Iterator[tuple[str, Precision]]:
    """Those of ``bbox`` and ``segm`` that are there, as ``box`` and ``mask``: the words of all tables."""
    for iou_type, kind in (("bbox", "box"), ("segm", "mask")):
        if iou_type in precisions:
            yield kind, precisions[iou_type]


def coco_metrics(precisions: dict[str, Precision]) -> dict[str, float]:
    """Figures in percent as in records: ``box AP``, ``box AP50`` ... ``mask AP75``, then by area.

    Args:
        precisions: precisions by ``bbox`` and ``segm``.
    """
    metrics: dict[str, float] = {}
    for kind, precision in named_precisions(precisions):
        figures = {
            "AP": precision.ap(),
            "AP50": precision.ap(0.5),
            "AP75": precision.ap(0.75),
            **{f"AP {area}": precision.ap(area=area) for area in AREAS[1:]},
        }
        metrics |= {f"{kind} {name}": value for name, value in figures.items() if not np.isnan(value)}
    return metrics


def read_detections(path: str | Path) -> list[dict]:
    """Detections in COCO's result format.

    Raises:
        ValueError: the file is something else.
    """
    content = json.loads(Path(path).read_text())
    if not isinstance(content, list):
        raise ArgumentError(f"{path} is not a list of detections in COCO's result format")
    return content
