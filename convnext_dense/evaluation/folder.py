"""The folder of an evaluation, from which tables, pictures and reports are made without the model.

evaluation.json   checkpoint and data, figures, figures per class
arrays.npz        precisions (detection) or the confusion matrix (segmentation)
bbox.json, segm.json, labels/*.png    the predictions
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from convnext_dense.evaluation.coco_ap import Precision, named_precisions, read_detections
from convnext_dense.support.files import replacing, write_json

NAME = "evaluation.json"
Task = Literal["detection", "segmentation"]


@dataclass(frozen=True)
class Evaluation:
    """One run of a test protocol.

    Attributes:
        folder: its path.
        task: ``detection`` or ``segmentation``.
        classes: names by label.
        images: folder of the images.
        annotations: COCO's file, or the folder of the label maps.
        record: as in ``results/``.
        per_class: class name -> figure -> percent; ``None`` where the class does not occur.
        scenes: for a segmentation, one entry per image: ``image``, ``truth``, ``prediction`` (paths) and
            ``miou``, ``accuracy`` in percent.
        ignore_index: label that does not count.
        reduce_zero_label: whether 0 in the label maps means unlabelled and 1 is the first class.
    """

    folder: Path
    task: Task
    classes: tuple[str, ...]
    images: str
    annotations: str
    record: Mapping
    per_class: Mapping[str, Mapping[str, float | None]]
    scenes: tuple[Mapping, ...] = ()
    ignore_index: int = 255
    reduce_zero_label: bool = False
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict, compare=False)

    def save(self) -> None:
        """Write ``arrays.npz``, then ``evaluation.json``, which makes the folder valid."""
        with replacing(self.folder / "arrays.npz") as partial, open(partial, "wb") as file:
            np.savez_compressed(file, **self.arrays)  # type: ignore[arg-type]  # no array is "allow_pickle"
        content = {k: v for k, v in asdict(self).items() if k not in ("folder", "arrays")}
        write_json(self.folder / NAME, content)

    @classmethod
    def load(cls, folder: str | Path) -> "Evaluation":
        """Read an evaluation that :meth:`save` wrote.

        Args:
            folder: of an evaluation, or of a run, whose newest evaluation is read.

        Raises:
            FileNotFoundError: the folder has no evaluation.
        """
        folder = newest_evaluation(folder)
        content = json.loads((folder / NAME).read_text())
        content["classes"], content["scenes"] = tuple(content["classes"]), tuple(content["scenes"])
        with np.load(folder / "arrays.npz") as arrays:
            return cls(folder=folder, arrays=dict(arrays), **content)

    def precisions(self) -> dict[str, Precision]:
        """Precisions of a detection by ``bbox`` and ``segm``."""
        return {kind: Precision(self.classes, values) for kind, values in self.arrays.items()}

    def detections(self) -> list[dict]:
        """Detections with masks if there are any."""
        for kind in ("segm", "bbox"):
            if (self.folder / f"{kind}.json").is_file():
                return read_detections(self.folder / f"{kind}.json")
        raise FileNotFoundError(f"no segm.json and no bbox.json in {self.folder}")


def newest_evaluation(folder: str | Path) -> Path:
    """The folder itself if it holds an evaluation, else the one in it that was written last.

    Raises:
        FileNotFoundError: there is none.
    """
    folder = Path(folder)
    if (folder / NAME).is_file():
        return folder
    found = sorted(folder.glob(f"*/{NAME}"), key=lambda path: path.stat().st_mtime_ns)
    if not found:
        raise FileNotFoundError(f"no {NAME} in {folder}: tools/test.py CONFIG CHECKPOINT writes one")
    return found[-1].parent


def detection_classes(precisions: Mapping[str, Precision]) -> dict[str, dict[str, float | None]]:
    """Box and mask AP, AP50 and AP75 of each class in percent."""
    table: dict[str, dict[str, float | None]] = {}
    for kind, precision in named_precisions(precisions):
        for label, name in enumerate(precision.classes):
            for title, iou in (("AP", None), ("AP50", 0.5), ("AP75", 0.75)):
                table.setdefault(name, {})[f"{kind} {title}"] = _known(precision.ap(iou, label=label))
    return table


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


# ---------------------------------------------------------------------------------------- segmentation


def count_pixels(truth: np.ndarray, found: np.ndarray, classes: int, ignore_index: int) -> np.ndarray:
    """(classes, classes) pixels by true and found class; those labelled ``ignore_index`` do not count.

    A predicted label beyond the classes counts as wrong, in no column, so a row's sum may be smaller.
    """
    valid = (truth != ignore_index) & (truth < classes)
    truth, found = truth[valid].astype(np.int64), found[valid].astype(np.int64)
    inside = found < classes
    pairs = truth[inside] * classes + found[inside]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """(classes,) intersection over union in percent; NaN for a class that is neither present nor found."""
    hits = np.diag(confusion).astype(float)
    union = confusion.sum(0) + confusion.sum(1) - hits
    return 100 * np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)


def class_accuracy(confusion: np.ndarray) -> np.ndarray:
    """(classes,) share of a class's pixels that were found, in percent; NaN for an absent class."""
    hits, there = np.diag(confusion).astype(float), confusion.sum(1)
    return 100 * np.divide(hits, there, out=np.full(len(hits), np.nan), where=there > 0)


def segmentation_metrics(confusion: np.ndarray) -> dict[str, float]:
    """``mIoU``, ``aAcc`` (all pixels) and ``mAcc`` (mean of the classes) in percent."""
    total = confusion.sum()
    return {
        "mIoU": float(np.nanmean(class_iou(confusion))),
        "aAcc": float(100 * np.diag(confusion).sum() / total),
        "mAcc": float(np.nanmean(class_accuracy(confusion))),
    }


def segmentation_classes(confusion: np.ndarray, names: tuple[str, ...]) -> dict[str, dict[str, float | None]]:
    """IoU and accuracy of each class in percent."""
    pairs = zip(names, class_iou(confusion), class_accuracy(confusion), strict=True)
    return {name: {"IoU": _known(iou), "accuracy": _known(accuracy)} for name, iou, accuracy in pairs}
