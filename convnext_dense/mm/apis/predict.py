"""Predictions on the user's own images, as pictures and JSON."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

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

from convnext_dense.data.image_headers import IMAGE_SUFFIXES, PictureError
from convnext_dense.data.image_io import save_label_map
from convnext_dense.errors import UserError
from convnext_dense.mm.config.edit import set_plain_batch_norm, set_pretrained
from convnext_dense.mm.config.levels import check_levels
from convnext_dense.mm.config.sections import check_needed
from convnext_dense.mm.datasets.declared import with_colours
from convnext_dense.mm.datasets.decoders import build_loader, without_name
from convnext_dense.mm.datasets.paths import datasets_of
from convnext_dense.mm.datasets.transforms import BadInputError
from convnext_dense.mm.engine.checkpoints import load_model
from convnext_dense.mm.engine.hooks.pictures import draw
from convnext_dense.mm.errors import explain
from convnext_dense.mm.models.autocast import predict_in
from convnext_dense.mm.models.folded_norms import fold_model
from convnext_dense.mm.models.sliding_window import bound_predictions
from convnext_dense.mm.models.small_inputs import pad_small_inputs
from convnext_dense.mm.type_names import class_of, type_name
from convnext_dense.support.files import output_names, write_json

RESULTS = "predictions.json"
OUTPUTS = "outputs.json"  # absolute path of an image -> name of its outputs
_ENDINGS = ("", "_labels")


def image_suffixes(cfg: Config) -> tuple[str, ...]:
    """Suffixes of pictures, and that of the config's own images, such as ``.npy``."""
    own = [data.get("img_suffix", "").lower() for data in datasets_of(cfg, ("test",))]
    return tuple(dict.fromkeys([*IMAGE_SUFFIXES, *filter(None, own)]))


def find_images(sources: list[str], suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
    """Image files in ``sources`` or in its folders, each once, sorted within a folder.

    Of a folder, hidden files and the pictures of earlier predictions are left out.

    Args:
        sources: files and folders.
        suffixes: what the names of images in a folder end in, in small letters.

    Raises:
        UserError: a source that does not exist, or no image at all.
    """
    images: dict[str, Path] = {}
    for source in map(Path, sources):
        if not source.exists():
            raise UserError(f"no image or folder at {source}")
        for path in _images_below(source, suffixes) if source.is_dir() else [source]:
            images.setdefault(os.path.abspath(path), path)
    if not images:
        raise UserError(f"no images in {', '.join(sources)}; looked for {', '.join(suffixes)}")
    return list(images.values())


def _images_below(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [
            name for name in folders if name[0] != "." and not Path(parent, name, RESULTS).is_file()
        ]
        found += [Path(parent, name) for name in names if name[0] != "."]
    return sorted(path for path in found if path.name.lower().endswith(suffixes))


class Predictor:
    """A trained model with the test pipeline of its config.

    Args:
        cfg: config of the model.
        checkpoint: file that training wrote; it must fit exactly.
        fused: fold weights for speed; the outputs are the same.
        dtype: of the products.

    Attributes:
        classes: class names, from the checkpoint if it has them, else from the config's dataset.

    Raises:
        CheckpointError: a checkpoint that cannot be read or does not fit.
    """

    def __init__(self, cfg: Config, checkpoint: str, fused: bool = True, dtype: str = "fp32") -> None:
        check_needed(cfg, "predict")
        check_levels(cfg)
        init_default_scope(cfg.get("default_scope") or "mmengine")
        set_pretrained(cfg, "none")
        set_plain_batch_norm(cfg, 1, get_device())
        self.model: nn.Module = MODELS.build(cfg.model)
        meta = load_model(self.model, checkpoint).get("dataset_meta") or _dataset_meta(cfg)
        self.model.to(get_device()).eval()
        if fused:
            fold_model(self.model)
        pad_small_inputs(self.model)
        bound_predictions(self.model)
        predict_in(self.model, dtype, get_device())
        self.classes: tuple[str, ...] = tuple(meta.get("classes") or ())
        self.visualizer = VISUALIZERS.build(dict(cfg.visualizer, vis_backends=None))
        self.visualizer.dataset_meta = with_colours(meta)
        steps = [
            step
            for step in datasets_of(cfg, ("test",))[0].pipeline
            if not re.fullmatch(r"Load\w*Annotations?", type_name(step))
        ]
        # the checked loader, where it is mmcv's, says what is wrong with a file
        loader = build_loader(steps[0], cfg.get("default_scope") or "mmengine")
        self.pipeline = Compose([loader, *steps[1:]])

    @torch.no_grad()
    def __call__(self, image: Path) -> BaseDataElement:
        """Data sample of mmdet or mmseg with the prediction at the image's own size."""
        return self.model.test_step(pseudo_collate([self.load(image)]))[0]

    def load(self, image: Path) -> dict:
        """The sample that the test pipeline makes of a file.

        Raises:
            PictureError: the config's loader cannot read it.
        """
        try:
            sample = self.pipeline(dict(img_path=str(image), img_id=0))
        except BadInputError as error:
            raise PictureError(without_name(error)) from None
        if sample is None:
            raise PictureError("the test pipeline leaves it out")
        return sample

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
    """Predict one image after the other and write pictures, then ``predictions.json``, also after Ctrl-C.

    A segmentation also leaves its label map ``<image>_labels.png`` (one class index per pixel). For names see
    :func:`convnext_dense.support.files.output_names`; ``outputs.json`` has them. What an earlier run left of
    other images stays.

    Yields:
        each image with ``None``, or with the reason why it was left out.
    """
    names = add_names(_read(out_dir / OUTPUTS), images)
    again = {os.path.abspath(image) for image in images}
    earlier = _read(out_dir / RESULTS)
    results = {path: found for path, found in earlier.items() if os.path.abspath(path) not in again}
    try:
        for image in images:
            out_file = out_dir / f"{names[os.path.abspath(image)]}.png"
            try:
                results[str(image)] = _predict_one(predictor, image, out_file, score_thr)
            except Exception as error:  # one image must not cost the others
                yield image, _reason(error)
            else:
                yield image, None
    finally:
        there = {os.path.abspath(image) for image in results}
        write_json(out_dir / OUTPUTS, {path: name for path, name in names.items() if path in there})
        write_json(out_dir / RESULTS, results)


def _reason(error: Exception) -> str:
    """Why an image was left out; the kind of an error that may be a fault of the code is named."""
    said = explain(error) or getattr(error, "strerror", None)
    return said or f"{type(error).__name__}: {error}"


def _read(path: Path) -> dict:
    """What an earlier run wrote in the same folder; nothing if it wrote none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def add_names(earlier: Mapping[str, str], images: Sequence[Path]) -> dict[str, str]:
    """Names of outputs by absolute path of the image: those of earlier runs, and others for new images.

    Args:
        earlier: names that are taken.
        images: images to predict.
    """
    names = dict(earlier)
    taken = {name + ending for name in names.values() for ending in _ENDINGS}
    for path, wanted in output_names([*earlier, *images], _ENDINGS).items():
        if path in names:
            continue
        free, number = wanted, 1
        while any(free + ending in taken for ending in _ENDINGS):
            number += 1
            free = f"{wanted}_{number}"
        names[path] = free
        taken.update(free + ending for ending in _ENDINGS)
    return names


def _predict_one(
    predictor: Predictor, image: Path, out_file: Path, score_thr: float
) -> list[dict] | dict[str, float]:
    """Predict an image, write its picture and its label map, and return its results for the JSON file."""
    sample = predictor(image)
    out_file.parent.mkdir(parents=True, exist_ok=True)
    draw(predictor.visualizer, sample, out_file, score_thr, draw_gt=False)
    if "pred_sem_seg" in sample:
        labels = sample.pred_sem_seg.data[0].cpu().numpy()
        save_label_map(out_file.with_name(f"{out_file.stem}_labels.png"), labels, len(predictor.classes))
    return predictor.as_json(sample, score_thr)


def _dataset_meta(cfg: Config) -> dict:
    """Class names and colours of the config's test dataset, without reading its files."""
    data = datasets_of(cfg, ("test",))[0]
    known = getattr(class_of(data["type"], DATASETS), "METAINFO", {})
    return {**known, **(data.get("metainfo") or {})}
