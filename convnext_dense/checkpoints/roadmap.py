"""Weights for the steps of the roadmap, including a public ResNet-50."""

import logging
import re
from collections.abc import Mapping

from torch import Tensor

from convnext_dense.checkpoints.fetch import fetch
from convnext_dense.checkpoints.load import load_checkpoint
from convnext_dense.checkpoints.read import read_state_dict
from convnext_dense.errors import CheckpointError
from convnext_dense.models.roadmap import Roadmap

logger = logging.getLogger(__name__)

# Names of torchvision's and mmdet's ResNet -> ours; ``None`` drops the classifier.
RESNET_NAMES: tuple[tuple[str, str | None], ...] = (
    (r"conv1\.(.+)", r"downsample_layers.0.0.\1"),
    (r"bn1\.(.+)", r"downsample_layers.0.1.\1"),
    *((rf"layer{i + 1}\.(\d+)\.conv([123])\.(.+)", rf"stages.{i}.\1.conv\2.\3") for i in range(4)),
    *((rf"layer{i + 1}\.(\d+)\.bn([123])\.(.+)", rf"stages.{i}.\1.norm\2.\3") for i in range(4)),
    *((rf"layer{i + 1}\.(\d+)\.downsample\.(.+)", rf"stages.{i}.\1.shortcut.\2") for i in range(4)),
    (r"fc\.(.+)", None),
)
_COUNTER = ".num_batches_tracked"  # absent from files older than torch 0.4.1; it has no effect here


def from_resnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of a ResNet -> that of ``Roadmap("resnet50")``; the classifier is dropped.

    Raises:
        KeyError: keys unknown to a ResNet (the first few are named).
    """
    renamed: dict[str, Tensor] = {}
    unknown = []
    for key, value in state.items():
        for pattern, replacement in RESNET_NAMES:
            if match := re.fullmatch(pattern, key):
                if replacement is not None:
                    renamed[match.expand(replacement)] = value
                break
        else:
            unknown.append(key)
    if unknown:
        raise KeyError(f"{len(unknown)} keys unknown to a ResNet, first {unknown[:3]}")
    return renamed


def load_roadmap(model: Roadmap, source: str) -> None:
    """Load weights into any step of the roadmap, all of them, and log what was loaded.

    Takes files in the model's own names (the ``backbone.`` part of a detector or
    segmentor, too), for the first step a ResNet-50 in the names of torchvision and
    mmdet, and for the last whatever :func:`convnext_dense.load_checkpoint` takes.

    Args:
        model: the backbone.
        source: path or http(s) URL.

    Raises:
        CheckpointError: unreadable or not for this step; the message has the file and
            the first keys. The model is unchanged.
    """
    if model.step.separate_downsampling:
        load_checkpoint(model, source)
        return
    state = read_state_dict(fetch(source))
    prefix = "backbone."
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    state = inside or state
    naming = "its own"
    if "layer1.0.conv1.weight" in state:
        naming = "ResNet"
        try:
            state = from_resnet(state)
        except KeyError as error:
            raise CheckpointError(f"{source}: {error.args[0]}") from None
    own = model.state_dict()
    problems = {
        "missing": [name for name in own if name not in state and not name.endswith(_COUNTER)],
        "not in the model": [name for name in state if name not in own],
        "of another shape": [name for name in own if name in state and state[name].shape != own[name].shape],
    }
    if any(problems.values()):
        found = "; ".join(
            f"{len(names)} {label}, first {names[:3]}" for label, names in problems.items() if names
        )
        raise CheckpointError(f"{source} does not fit step={model.step.name!r}: {found}")
    model.load_state_dict({**own, **state})
    logger.info("backbone: %d/%d tensors from %s naming", len(state), len(own), naming)
