"""Evaluation batches of segmentors whose images have several sizes.

mmseg refuses them. Padding would make an image's prediction depend on the others in its batch, because
networks pool over the whole map. So images of equal size run together, and each is predicted as alone.
"""

from collections.abc import Callable, Mapping
from types import MethodType

from torch import nn

Predictions = list


def groups_by_size(images: list) -> list[list[int]]:
    """Indices of images (C, H, W) with equal shape, in the order of their first."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(tuple(image.shape), []).append(index)
    return list(groups.values())


def by_size(step: Callable[[Mapping], Predictions], data: Mapping) -> Predictions:
    """Run ``step`` on images of equal size, and return its predictions in the order of ``data``.

    Args:
        step: from collated samples to one prediction each.
        data: ``inputs``, a list of images or, with augmentations, of such lists; ``data_samples`` alike.
    """
    inputs = data["inputs"] if isinstance(data, Mapping) else None
    if not isinstance(inputs, list) or not inputs:
        return step(data)
    augmented = isinstance(inputs[0], list | tuple)
    groups = groups_by_size(inputs[0] if augmented else inputs)
    if len(groups) < 2:
        return step(data)
    found: dict[int, object] = {}
    for indices in groups:
        part = {key: _chosen(values, indices, augmented) for key, values in data.items()}
        found.update(zip(indices, step(part), strict=True))
    return [found[index] for index in sorted(found)]


def _chosen(values: object, indices: list[int], augmented: bool) -> object:
    if not isinstance(values, list | tuple):
        return values
    if augmented:
        return [[view[index] for index in indices] for view in values]
    return [values[index] for index in indices]


def allow_mixed_sizes(model: nn.Module) -> None:
    """Let a segmentor, or its wrapper for augmentations, evaluate batches of several sizes; others stay."""
    inner = getattr(model, "module", model)
    if not hasattr(inner, "decode_head"):
        return
    for name in ("val_step", "test_step"):
        # a method of the instance is copied with it, as for the average of the weights
        setattr(model, name, MethodType(_steps(name), model))


def _steps(name: str) -> Callable[[nn.Module, Mapping], Predictions]:
    def step(self: nn.Module, data: Mapping) -> Predictions:
        return by_size(lambda part: getattr(type(self), name)(self, part), data)

    return step
