"""Classify an image with a downloaded checkpoint: a quick check that its weights work."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from convnext_dense.checkpoints.convert import build_model
from convnext_dense.checkpoints.fetch import fetch
from convnext_dense.checkpoints.load import in_our_names
from convnext_dense.checkpoints.read import (
    checkpoint_file,
    read_state_dict,
)
from convnext_dense.errors import CheckpointError
from convnext_dense.layers.fused_block import fuse
from convnext_dense.models.classifier import Classifier
from convnext_dense.support.optional_packages import optional

# ImageNet's, in RGB, on a scale of 0 to 1; every published ConvNeXt was trained with them
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROP_RATIO = 0.875  # the crop covers 224 of 256 pixels, as in the released evaluation at 224


class Guess(NamedTuple):
    """A class, its name if one is known, and its probability."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    name: str | None
    probability: float


def load_classifier(source: str) -> tuple[Classifier, str]:
    """The classifier in a checkpoint of any naming, and one line on what was read.

    Raises:
        CheckpointError: unreadable, or without a classification head.
    """
    state = read_state_dict(fetch(source))
    renamed, tensors = in_our_names(state, source)
    if "head.weight" not in tensors:
        raise CheckpointError(f"{source} has no classification head ({renamed.naming.name} naming)")
    model = build_model(tensors)
    assert isinstance(model, Classifier)  # it has a head
    line = f"{len(tensors)}/{len(model.state_dict())} tensors from {renamed.naming.name} naming"
    return fuse(model), f"{line}, {len(tensors['head.weight'])} classes"


def class_names(source: str, file: str | Path | None = None) -> list[str] | None:
    """Names by index: from ``file`` (JSON list, or one per line), else from the checkpoint's ``config.json``.

    Raises:
        CheckpointError: ``file`` cannot be read.
    """
    if file is not None:
        try:
            text = Path(file).read_text(encoding="utf-8")
            return list(map(str, json.loads(text))) if text.lstrip()[:1] == "[" else text.splitlines()
        except (OSError, ValueError) as error:
            raise CheckpointError(f"class names: cannot read {file} ({error})") from None
    config = checkpoint_file(fetch(source)).parent / "config.json"  # transformers keeps it beside the weights
    try:
        names = json.loads(config.read_text(encoding="utf-8"))["id2label"]
        return [names[str(i)] for i in range(len(names))]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_image(path: str | Path, size: int) -> Tensor:
    """The central square of an image as (1, 3, size, size), normalised.

    The shorter side is resized to ``size / CROP_RATIO``; at 384 pixels or more the whole image is
    squeezed into the square, as in the released evaluation.

    Raises:
        CheckpointError: the image cannot be read.
    """
    library = optional("PIL.Image", "reading images", "pillow")
    try:
        image = library.open(path).convert("RGB")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read the image {path} ({error})") from None
    if size >= 384:
        image = image.resize((size, size), library.Resampling.BICUBIC)
    else:
        scale = round(size / CROP_RATIO) / min(image.size)
        width, height = (max(size, round(side * scale)) for side in image.size)
        image = image.resize((width, height), library.Resampling.BICUBIC)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    pixels = (np.asarray(image, dtype=np.float32) / 255 - MEAN) / STD  # (H, W, 3)
    return torch.from_numpy(pixels).float().permute(2, 0, 1).unsqueeze(0)


@torch.no_grad()
def best_guesses(model: Classifier, image: Tensor, names: list[str] | None, count: int = 5) -> list[Guess]:
    """The most probable classes of one image.

    Args:
        model: in eval mode.
        image: (1, 3, H, W), normalised.
        names: names by index; unused if there are not as many as classes.
        count: number of classes to return.
    """
    probabilities = model(image)[0].softmax(dim=0)
    best = probabilities.topk(min(count, len(probabilities)))
    named = names if names is not None and len(names) == len(probabilities) else None
    return [
        Guess(index, named[index] if named else None, probability)
        for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
