"""Predictions on the user's own images, as pictures and JSON."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.registry import DATASETS, MODELS, VISUALIZERS, init_default_scope
from mmengine.structures import BaseDataElement
from pycocotools import mask as coco_mask
from torch import nn

from convnext_dense.data.image_io import IMAGE_SUFFIXES, PictureError, read_picture
from convnext_dense.errors import UserError
from convnext_dense.layers.fused_block import fuse
from convnext_dense.mm.config.edit import set_plain_batch_norm, set_pretrained
from convnext_dense.mm.datasets.paths import datasets_of
from convnext_dense.mm.engine.checkpoints import load_model
from convnext_dense.mm.engine.hooks.pictures import draw
from convnext_dense.mm.models.sliding_window import bound_predictions
from convnext_dense.mm.type_names import class_of, type_name
from convnext_dense.support.files import write_json


def find_images(sources: list[str]) -> list[Path]:
    """Image files in ``sources`` or in its folders, sorted within a folder.

    Raises:
        UserError: a source that does not exist, or no image at all.
    """
    images: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            images += sorted(p for p in source.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        elif source.is_file():
            images.append(source)
        else:
            raise UserError(f"no image or folder at {source}")
    if not images:
        raise UserError(f"no images in {', '.join(sources)}; looked for {', '.join(IMAGE_SUFFIXES)}")
    return images


class Predictor:
    """A trained model with the test pipeline of its config.

    Args:
        cfg: config of the model.
        checkpoint: file that training wrote; it must fit exactly.
        fused: fold the backbone's weights for speed; the outputs are the same.

    Attributes:
        classes: class names, from the checkpoint if it has them, else from the config's dataset.

    Raises:
        CheckpointError: a checkpoint that cannot be read or does not fit.
    """

    def __init__(self, cfg: Config, checkpoint: str, fused: bool = True) -> None:
        init_default_scope(cfg.get("default_scope", "mmengine"))
        set_pretrained(cfg, "none")
        set_plain_batch_norm(cfg, 1, get_device())
        self.model: nn.Module = MODELS.build(cfg.model)
        meta = load_model(self.model, checkpoint).get("dataset_meta") or _dataset_meta(cfg)
        self.model.to(get_device()).eval()
        if fused:
            fuse(self.model)
        bound_predictions(self.model)
        self.classes: tuple[str, ...] = tuple(meta.get("classes") or ())
        self.visualizer = VISUALIZERS.build(dict(cfg.visualizer, vis_backends=None))
        self.visualizer.dataset_meta = meta
        steps = datasets_of(cfg, ("test",))[0].pipeline
        self.pipeline = Compose([step for step in steps if not type_name(step).endswith("LoadAnnotations")])

    @torch.no_grad()
    def __call__(self, image: Path) -> BaseDataElement:
        """Data sample of mmdet or mmseg with the prediction at the image's own size."""
        return self.model.test_step(pseudo_collate([self.pipeline(dict(img_path=str(image), img_id=0))]))[0]

    def as_json(self, sample: BaseDataElement, score_thr: float) -> list[dict] | dict[str, float]:
        """Detections in COCO's result format, or the share of pixels of each class found.

        Boxes are [x, y, width, height] in pixels; ``category_id`` counts the
        classes from 0; masks are run-length encoded.
        """
        if "pred_sem_seg" in sample:
            labels = sample.pred_sem_seg.data[0].cpu().numpy()
            counts = np.bincount(labels.reshape(-1), minlength=len(self.classes)) / labels.size
            return {name: round(share, 4) for name, share in zip(self.classes, counts, strict=False) if share}
        found = sample.pred_instances.cpu().numpy()
        return [self._detection(found, i) for i in range(len(found)) if found.scores[i] >= score_thr]

    def _detection(self, found: BaseDataElement, i: int) -> dict:
        x1, y1, x2, y2 = (float(v) for v in found.bboxes[i])
        label = int(found.labels[i])
        entry = {
            "category_id": label,
            "category_name": self.classes[label] if label < len(self.classes) else str(label),
            "score": round(float(found.scores[i]), 4),
            "bbox": [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)],
        }
        if "masks" in found:
            encoded = coco_mask.encode(np.asfortranarray(found.masks[i].astype(np.uint8)))
            entry["segmentation"] = {"size": encoded["size"], "counts": encoded["counts"].decode()}
        return entry


def predict_images(
    predictor: Predictor, images: list[Path], out_dir: Path, score_thr: float
) -> Iterator[tuple[Path, str | None]]:
    """Predict one image after the other and write pictures, then ``predictions.json``.

    A segmentation also leaves its label map ``<image>_labels.png`` (one class index per pixel).

    Yields:
        each image with ``None``, or with the reason why it was left out.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    results = {}
    for image in images:
        try:
            read_picture(image.read_bytes())
        except (OSError, PictureError) as error:
            yield image, getattr(error, "strerror", None) or str(error)
            continue
        sample = predictor(image)
        draw(predictor.visualizer, sample, out_dir, score_thr, draw_gt=False)
        if "pred_sem_seg" in sample:
            labels = sample.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8)
            cv2.imwrite(str(out_dir / f"{image.stem}_labels.png"), labels)
        results[str(image)] = predictor.as_json(sample, score_thr)
        yield image, None
    write_json(out_dir / "predictions.json", results)


def _dataset_meta(cfg: Config) -> dict:
    """Class names and colours of the config's test dataset, without reading its files."""
    data = datasets_of(cfg, ("test",))[0]
    known = getattr(class_of(data["type"], DATASETS), "METAINFO", {})
    return {**known, **(data.get("metainfo") or {})}
