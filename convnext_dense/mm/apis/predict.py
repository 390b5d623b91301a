"""Predictions on the user's own images, as pictures and JSON."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.registry import MODELS, VISUALIZERS, init_default_scope
from mmengine.structures import BaseDataElement
from pycocotools import mask as coco_mask
from torch import nn

from convnext_dense.data.image_headers import IMAGE_SUFFIXES, PictureError
from convnext_dense.data.image_io import save_label_map
from convnext_dense.export.engines import EngineName
from convnext_dense.export.outputs import class_shares, detection_entry, label_map_path, write_all
from convnext_dense.mm.config.edit import set_plain_batch_norm, set_pretrained
from convnext_dense.mm.config.levels import check_levels
from convnext_dense.mm.config.sections import check_needed
from convnext_dense.mm.datasets.declared import dataset_meta, with_colours
from convnext_dense.mm.datasets.decoders import build_loader, without_name
from convnext_dense.mm.datasets.paths import datasets_of
from convnext_dense.mm.datasets.transforms import BadInputError
from convnext_dense.mm.engine.checkpoints import load_model
from convnext_dense.mm.engine.hooks.pictures import draw
from convnext_dense.mm.errors import explain
from convnext_dense.mm.models.autocast import predict_in
from convnext_dense.mm.models.folded_norms import fold_model
from convnext_dense.mm.models.onnx_model import OnnxModel, check_exported, check_fits, is_exported
from convnext_dense.mm.models.sliding_window import bound_predictions
from convnext_dense.mm.models.small_inputs import pad_small_inputs
from convnext_dense.mm.type_names import type_name


def image_suffixes(cfg: Config) -> tuple[str, ...]:
    """Suffixes of pictures, and that of the config's own images, such as ``.npy``."""
    own = [data.get("img_suffix", "").lower() for data in datasets_of(cfg, ("test",))]
    return tuple(dict.fromkeys([*IMAGE_SUFFIXES, *filter(None, own)]))


class Predictor:
    """A trained model with the test pipeline of its config.

    Args:
        cfg: config of the model.
        checkpoint: file that training wrote, which must fit exactly, or an exported file.
        fused: fold weights for speed; the outputs are the same.
        dtype: of the products.
        engine: what runs an exported file.

    Attributes:
        classes: class names, from the checkpoint if it has them, else from the config's dataset.

    Raises:
        CheckpointError: a checkpoint that cannot be read or does not fit.
    """

    def __init__(
        self,
        cfg: Config,
        checkpoint: str,
        fused: bool = True,
        dtype: str = "fp32",
        engine: EngineName = "auto",
    ) -> None:
        check_needed(cfg, "predict")
        check_levels(cfg)
        init_default_scope(cfg.get("default_scope") or "mmengine")
        self.model: nn.Module
        if is_exported(checkpoint):
            check_exported(dtype)
            self.model = OnnxModel(checkpoint, engine)
            check_fits(self.model.predictor.metadata, checkpoint, cfg.model, ())
            meta = self.model.dataset_meta
        else:
            self.model, meta = _trained(cfg, checkpoint, fused, dtype)
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
            return class_shares(sample.pred_sem_seg.data[0].cpu().numpy(), self.classes)
        found = sample.pred_instances.cpu().numpy()
        return [
            detection_entry(
                found.bboxes[i], float(found.scores[i]), int(found.labels[i]), self.classes, _rle(found, i)
            )
            for i in range(len(found))
            if found.scores[i] >= score_thr
        ]


def _rle(found: BaseDataElement, i: int) -> dict | None:
    """Run lengths of a detection's mask; ``None`` if it has none."""
    if "masks" not in found:
        return None
    encoded = coco_mask.encode(np.asfortranarray(found.masks[i].astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def predict_images(
    predictor: Predictor, images: list[Path], out_dir: Path, score_thr: float
) -> Iterator[tuple[Path, str | None]]:
    """Predict one image after the other and write files; see :func:`convnext_dense.export.outputs.write_all`.

    Yields:
        each image with ``None``, or with the reason why it was left out.
    """
    yield from write_all(partial(_predict_one, predictor, score_thr), images, out_dir, _reason)


def _reason(error: Exception) -> str:
    """Why an image was left out; the kind of an error that may be a fault of the code is named."""
    said = explain(error) or getattr(error, "strerror", None)
    return said or f"{type(error).__name__}: {error}"


def _predict_one(
    predictor: Predictor, score_thr: float, image: Path, out_file: Path
) -> list[dict] | dict[str, float]:
    """Predict an image, write its picture and its label map, and return its results for the JSON file."""
    sample = predictor(image)
    out_file.parent.mkdir(parents=True, exist_ok=True)
    draw(predictor.visualizer, sample, out_file, score_thr, draw_gt=False)
    if "pred_sem_seg" in sample:
        labels = sample.pred_sem_seg.data[0].cpu().numpy()
        save_label_map(label_map_path(out_file), labels, len(predictor.classes))
    return predictor.as_json(sample, score_thr)


def _trained(cfg: Config, checkpoint: str, fused: bool, dtype: str) -> tuple[nn.Module, dict]:
    """The model with the weights of a checkpoint, ready to predict, and its class names and colours."""
    set_pretrained(cfg, "none")
    set_plain_batch_norm(cfg, 1, get_device())
    model: nn.Module = MODELS.build(cfg.model)
    meta = load_model(model, checkpoint).get("dataset_meta") or dataset_meta(cfg)
    model.to(get_device()).eval()
    if fused:
        fold_model(model)
    pad_small_inputs(model)
    bound_predictions(model)
    predict_in(model, dtype, get_device())
    return model, meta
