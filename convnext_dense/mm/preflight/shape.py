"""The largest image and the largest batch that a training pipeline can make, from its config alone.

Blank images of all proportions go through the pipeline's own transforms, built once for every extreme of
their random choices. A batch is padded to the height of its highest and the width of its widest image, so
its largest shape may match no single image: a landscape beside an upright crop.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from mmengine.registry import TRANSFORMS

from convnext_dense.mm.type_names import type_name
from convnext_dense.support.nested import mappings

HW = tuple[int, int]
"""(height, width) in pixels."""

UNCHANGED = {
    *("LoadImageFromFile", "LoadAnnotations", "LoadCheckedImage", "LoadCheckedAnnotations", "RandomFlip"),
    *("PackDetInputs", "PackSegInputs", "ReportDropped", "FilterAnnotations", "LoadPanopticAnnotations"),
    *("PhotoMetricDistortion", "PhotoMetricDistortionMultiChannel", "YOLOXHSVRandomAug", "AutoContrast"),
    *("Color", "Brightness", "Contrast", "Sharpness", "Solarize", "Posterize", "Equalize", "Invert"),
    *("CutOut", "RandomErasing", "Corrupt", "Normalize", "GenerateEdge", "CLAHE", "AdjustGamma", "RGB2Gray"),
}  # fmt: skip
NOT_RANDOM = {"Resize", "FixScaleResize", "FixShapeResize", "ResizeShortestEdge", "ResizeToMultiple", "Pad"}
RESIZES = {"Resize", "RandomResize", "RandomChoiceResize"}
CONTENT = ("pad_val", "cat_max_ratio")  # entries about colours and labels, which blank images do not have
PROPORTIONS = (1.0, 1.1, 1.25, 4 / 3, 1.5, 1.6, 16 / 9, 2.0, 2.5, 3.0)  # long side by short side
SHORT_SIDES = (480, 1440)  # if the result depends on it, the pipeline does not determine the largest


class UnknownSizeError(ValueError):
    """A pipeline whose largest image does not follow from its config; the message names the transform."""


class Largest(NamedTuple):
    """(height, width) of the largest image after padding, and of the largest batch."""

    image: HW
    batch: HW


def largest_shape(
    pipeline: Sequence[Mapping],
    preprocessor: Mapping,
    scope: str,
    batch_size: int = 1,
    grouped: bool = False,
) -> Largest:
    """The largest image and batch of ``pipeline``, padded as ``preprocessor`` does.

    Args:
        pipeline: transforms of the training set.
        preprocessor: the model's ``data_preprocessor``.
        scope: ``mmdet`` or ``mmseg``, whose transforms of the same name differ.
        batch_size: images of a batch.
        grouped: whether batches have only landscape or only upright images (``AspectRatioBatchSampler``).

    Raises:
        UnknownSizeError: an unknown transform, or images that enter at their own size.
    """
    results = {_largest(pipeline, preprocessor, scope, batch_size, grouped, side) for side in SHORT_SIDES}
    if len(results) > 1:
        raise UnknownSizeError("the images enter at their own size")
    return results.pop()


def _largest(
    pipeline: Sequence[Mapping],
    preprocessor: Mapping,
    scope: str,
    batch_size: int,
    grouped: bool,
    side: int,
) -> Largest:
    proportions = sorted({*PROPORTIONS, *_proportions(pipeline)})
    landscape = {(side, round(side * proportion)) for proportion in proportions}
    upright = {(width, height) for height, width in landscape}
    outcomes = [run_sizes(pipeline, hws, scope) for hws in (landscape, upright)]
    image = max((pad(hw, preprocessor) for hw in outcomes[0] | outcomes[1]), key=_area)
    if batch_size == 1:
        return Largest(image, image)
    mixed = outcomes if grouped else [outcomes[0] | outcomes[1]]
    batch = max((pad(around(hws), preprocessor) for hws in mixed), key=_area)
    return Largest(image, batch)


def _area(hw: HW) -> tuple[int, int]:
    """Sort key; of two equal areas, the landscape wins."""
    return hw[0] * hw[1], hw[1]


def around(hws: Iterable[HW]) -> HW:
    """The shape that holds all of ``hws``."""
    heights, widths = zip(*hws, strict=True)
    return max(heights), max(widths)


def _proportions(node: object) -> Iterator[float]:
    """Long side by short side of every ``scale`` below ``node``: the images that fill it completely."""
    for _, step in mappings(node):
        for key in ("scale", "scales"):
            for scale in _several(step.get(key) or []):
                if isinstance(scale, list | tuple) and min(scale) > 0:
                    yield max(scale) / min(scale)


def _several(scales: object) -> list:
    """One scale, which is a tuple or a number, or a list of them -> a list of them."""
    return scales if isinstance(scales, list) else [scales]


# ---- transforms


def run_sizes(
    pipeline: Sequence[Mapping], hws: set[HW], scope: str, proportions: Iterable[float] = ()
) -> set[HW]:
    """Sizes after ``pipeline``, for every extreme of its random choices.

    Args:
        pipeline: transforms; all extremes of random sizes are followed.
        hws: sizes of the input images.
        scope: ``mmdet`` or ``mmseg``.
        proportions: proportions of crops to be followed beside those of the scales in ``pipeline``.

    Raises:
        UnknownSizeError: an unknown transform, or one that fails on a blank image.
    """
    proportions = {*proportions, *_proportions(pipeline)}
    for transform in pipeline:
        kind = type_name(transform)
        if kind in ("RandomChoice", "RandomApply"):
            steps = transform["transforms"]
            branches = [steps, []] if kind == "RandomApply" else steps
            pipelines = [[branch] if isinstance(branch, Mapping) else branch for branch in branches]
            hws = set().union(*(run_sizes(branch, hws, scope, proportions) for branch in pipelines))
        elif kind not in UNCHANGED:
            hws = {hw for fixed in extremes(transform, proportions) for hw in _run_one(fixed, hws, scope)}
    return hws


def extremes(transform: Mapping, proportions: Iterable[float] = ()) -> list[dict]:
    """``transform`` with each extreme of its random choice of a size in place of the choice.

    Args:
        transform: config of a transform.
        proportions: long by short side of crops to be followed beside the extreme ones.

    Raises:
        UnknownSizeError: an unknown transform.
    """
    kind, inner = type_name(transform), type_name(transform.get("resize_type", "Resize"))
    if inner not in NOT_RANDOM:
        raise UnknownSizeError(f"the effect of {inner} on sizes is unknown")
    if kind in NOT_RANDOM:
        return [dict(transform)]
    if kind == "RandomChoiceResize":
        return [dict(transform, scales=[scale]) for scale in _several(transform["scales"])]
    if kind == "RandomResize" and isinstance(transform["scale"][0], tuple):  # ends of a range for each side
        scales = product(*zip(*transform["scale"], strict=True))
        return [dict(transform, scale=scale, ratio_range=(1.0, 1.0)) for scale in scales]
    if kind == "RandomResize":
        return [dict(transform, ratio_range=(ratio, ratio)) for ratio in transform["ratio_range"]]
    if kind == "RandomCrop":
        return _crops(transform, proportions)
    raise UnknownSizeError(f"the effect of {kind} on sizes is unknown")


def _crops(transform: Mapping, proportions: Iterable[float]) -> list[dict]:
    """Crops of fixed size for one of mmdet or mmseg, whose orders of ``crop_size`` differ."""
    kind = transform.get("crop_type", "absolute")
    if not kind.endswith("_range"):
        return [dict(transform)]
    low, high = transform["crop_size"]
    if kind == "absolute_range":  # both sides from the first to the second, in pixels
        whs = set(product((low, high), repeat=2))
        for short in (round(high / proportion) for proportion in proportions):
            # what later fills a scale completely lies between the extremes
            whs |= {(high, short), (short, high)} if short >= low else set()
    else:  # height from the first to 1, width from the second
        whs = set(product((high, (high + 1) / 2, 1.0), (low, (low + 1) / 2, 1.0)))
    return [dict(transform, crop_type=kind.removesuffix("_range"), crop_size=wh) for wh in whs]


def _run_one(transform: Mapping, hws: set[HW], scope: str) -> set[HW]:
    """Sizes that a transform makes of blank images."""
    cfg = {key: value for key, value in transform.items() if key not in CONTENT}
    if {type_name(cfg), type_name(cfg.get("resize_type", "Resize"))} <= RESIZES:
        cfg["interpolation"] = "nearest"  # the fastest
    state = np.random.get_state()  # where a crop lies is drawn
    try:
        built = TRANSFORMS.build(dict(cfg, _scope_=scope))
        blank = (dict(img=np.zeros(hw, np.uint8), img_shape=hw) for hw in hws)
        return {built(results)["img"].shape[:2] for results in blank}
    except Exception as error:  # of the toolboxes or of a user's class
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise UnknownSizeError(f"{type_name(transform)} does not run on a blank image ({said})") from None
    finally:
        np.random.set_state(state)


# ---- batches


def pad(hw: HW, preprocessor: Mapping) -> HW:
    """(height, width) of a batch that holds ``hw``, as the model's ``data_preprocessor`` pads it."""
    fixed = preprocessor.get("size")  # mmseg: height, width
    hw = (max(hw[0], fixed[0]), max(hw[1], fixed[1])) if fixed else tuple(hw)
    divisor = preprocessor.get("pad_size_divisor") or preprocessor.get("size_divisor") or 1
    hw = tuple(-(-side // divisor) * divisor for side in hw)
    for augment in preprocessor.get("batch_augments") or ():
        if type_name(augment) == "BatchFixedSizePad":
            hw = max(hw[0], augment["size"][0]), max(hw[1], augment["size"][1])
    return hw


def is_grouped(dataloader: Mapping) -> bool:
    """Whether batches hold only landscape or only upright images."""
    return type_name(dataloader.get("batch_sampler")) == "AspectRatioBatchSampler"
