"""Evaluators that keep what pictures and reports need, beside those of mmdet and mmseg."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from convnext_dense.data.image_io import save_label_map
from convnext_dense.evaluation.folder import class_accuracy, class_iou, count_pixels


@METRICS.register_module()
class SegmentationRecords(BaseMetric):
    """Count pixels by true and predicted class, and write each predicted label map as a PNG.

    It reports no metrics: they follow from the counts.

    Args:
        folder: folder whose ``labels/`` gets the maps, named like their images.
        ignore_index: label that does not count.

    Attributes:
        names: absolute path of an image -> name of its label map; by default the whole path.
        confusion: (classes, classes) after the test, or ``None``.
        scenes: one entry per image after the test; see :class:`convnext_dense.evaluation.folder.Evaluation`.
    """

    default_prefix = "records"

    def __init__(self, folder: str, ignore_index: int = 255) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.ignore_index = ignore_index
        self.names: dict[str, str] = {}
        self.confusion: np.ndarray | None = None
        self.scenes: list[dict] = []

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the counts of each sample, without their zeros: 150 classes have 22,500 pairs."""
        classes = len(self.dataset_meta["classes"])
        for sample in data_samples:
            found = sample["pred_sem_seg"]["data"].squeeze(0).cpu().numpy()
            truth = sample["gt_sem_seg"]["data"].squeeze(0).cpu().numpy()
            counts = count_pixels(truth, found, classes, self.ignore_index).reshape(-1)
            pairs = np.flatnonzero(counts)
            name = f"labels/{self._name(sample['img_path'])}.png"
            save_label_map(self.folder / name, found, classes)
            scene = dict(image=sample["img_path"], truth=sample["seg_map_path"], prediction=name)
            self.results.append((scene, pairs, counts[pairs]))

    def _name(self, image: str) -> str:
        path = Path(os.path.abspath(image))
        return self.names.get(str(path)) or path.relative_to(path.anchor).with_suffix("").as_posix()

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Add up the counts and compute each image's own figures; return no metrics."""
        classes = len(self.dataset_meta["classes"])
        total = np.zeros(classes**2, dtype=np.int64)
        self.scenes = []
        for scene, pairs, counts in results:
            total[pairs] += counts
            own = np.zeros_like(total)
            own[pairs] = counts
            self.scenes.append({**scene, **_scene_figures(own.reshape(classes, classes))})
        self.confusion = total.reshape(classes, classes)
        return {}


def _scene_figures(confusion: np.ndarray) -> dict[str, float | None]:
    """Mean IoU and share of correct pixels of one image in percent; ``None`` where nothing is labelled."""
    if not confusion.sum():
        return dict(miou=None, accuracy=None)
    there = ~np.isnan(class_accuracy(confusion))
    return dict(
        miou=float(class_iou(confusion)[there].mean()),
        accuracy=float(100 * np.diag(confusion).sum() / confusion.sum()),
    )
