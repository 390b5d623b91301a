"""The largest image and the largest batch that a training pipeline can make, from its config alone.

A few image sizes of all proportions go through the size rules of the transforms, with every extreme of
their random choices. No pixels are computed. A batch is padded to the height of its highest and the width of
its widest image, so its largest shape may match no single image: a landscape beside an upright crop.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

Size = tuple[int, int]
"""(height, width) in pixels."""

PREFIXES = ("mmengine.", "mmcv.", "mmdet.", "mmseg.")
UNCHANGED = {
    *("LoadImageFromFile", "LoadAnnotations", "LoadCheckedImage", "LoadCheckedAnnotations", "RandomFlip"),
    *("PackDetInputs", "PackSegInputs", "ReportDropped", "FilterAnnotations", "LoadPanopticAnnotations"),
    *("PhotoMetricDistortion", "PhotoMetricDistortionMultiChannel", "YOLOXHSVRandomAug", "AutoContrast"),
    *("Color", "Brightness", "Contrast", "Sharpness", "Solarize", "Posterize", "Equalize", "Invert"),
    *("CutOut", "RandomErasing", "Corrupt", "Normalize", "GenerateEdge", "CLAHE", "AdjustGamma", "RGB2Gray"),
}  # fmt: skip
PROPORTIONS = (1.0, 1.1, 1.25, 4 / 3, 1.5, 1.6, 16 / 9, 2.0, 2.5, 3.0)  # long side by short side
SHORT_SIDES = (480, 1440)  # if the result depends on it, the pipeline does not determine the largest
BETWEEN = 8  # steps through the range of a random crop


class UnknownSizeError(ValueError):
    """A pipeline whose largest image does not follow from its config; the message names the transform."""


class Largest(NamedTuple):
    """(height, width) of the largest image after padding, and of the largest batch."""

    image: Size
    batch: Size


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
    outcomes = [run_sizes(pipeline, sizes, scope, proportions) for sizes in (landscape, upright)]
    image = max((pad(size, preprocessor) for size in outcomes[0] | outcomes[1]), key=_area)
    if batch_size == 1:
        return Largest(image, image)
    mixed = outcomes if grouped else [outcomes[0] | outcomes[1]]
    batch = max((pad(around(sizes), preprocessor) for sizes in mixed), key=_area)
    return Largest(image, batch)


def _area(size: Size) -> tuple[int, int]:
    """Sort key; of two equal areas, the landscape wins."""
    return size[0] * size[1], size[1]


def around(sizes: Iterable[Size]) -> Size:
    """The shape that holds all ``sizes``."""
    heights, widths = zip(*sizes, strict=True)
    return max(heights), max(widths)


def _proportions(node: object) -> Iterator[float]:
    """Long side by short side of every ``scale`` below ``node``: the images that fill it completely."""
    if isinstance(node, Mapping):
        for key in ("scale", "scales"):
            for scale in _scales(node.get(key)):
                yield max(scale) / min(scale)
        yield from _proportions(list(node.values()))
    elif isinstance(node, list | tuple):
        for item in node:
            yield from _proportions(item)


def _scales(value: object) -> list[Size]:
    """One scale or several -> several."""
    if not isinstance(value, list | tuple) or not value:
        return []
    if isinstance(value[0], list | tuple):
        return [tuple(scale) for scale in value]
    return [tuple(value)] if all(isinstance(side, int | float) and side > 0 for side in value) else []


# ---- transforms


def run_sizes(
    pipeline: Sequence[Mapping], sizes: set[Size], scope: str, proportions: Sequence[float] = ()
) -> set[Size]:
    """Sizes after ``pipeline``, for every extreme of its random choices.

    Args:
        pipeline: transforms; all extremes of random sizes are followed.
        sizes: sizes of the input images.
        scope: ``mmdet`` or ``mmseg``.
        proportions: proportions of crops to check beside the extreme ones.

    Raises:
        UnknownSizeError: an unknown transform.
    """
    for transform in pipeline:
        sizes = _run_one(transform, sizes, scope, proportions)
    return sizes


def _run_one(transform: Mapping, sizes: set[Size], scope: str, proportions: Sequence[float]) -> set[Size]:
    kind = bare_type(transform)
    if kind in UNCHANGED:
        return sizes
    if kind == "RandomChoice":
        branches = (run_sizes(branch, sizes, scope, proportions) for branch in transform["transforms"])
        return set().union(*branches)
    if kind == "RandomApply":
        steps = transform["transforms"]
        return sizes | run_sizes([steps] if isinstance(steps, Mapping) else steps, sizes, scope, proportions)
    if kind in ("Resize", "RandomResize", "RandomChoiceResize"):
        return _resized(kind, transform, sizes)
    if kind == "RandomCrop":
        crop = _mmseg_crop if scope == "mmseg" else _mmdet_crop
        return {cut for size in sizes for cut in crop(transform, size, proportions)}
    if kind == "Pad":
        return {_pad_transform(transform, size) for size in sizes}
    raise UnknownSizeError(f"the effect of {kind} on sizes is unknown")


def bare_type(cfg: Mapping) -> str:
    """``type`` of a config entry without its scope; it may be the class itself."""
    kind = cfg["type"] if isinstance(cfg["type"], str) else cfg["type"].__name__
    for prefix in PREFIXES:
        kind = kind.removeprefix(prefix)
    return kind


def _resized(kind: str, transform: Mapping, sizes: set[Size]) -> set[Size]:
    keep_ratio = (transform.get("resize_cfg") or transform).get("keep_ratio", False)
    factor = transform.get("scale_factor")
    if factor is not None:
        by = factor if isinstance(factor, list | tuple) else (factor, factor)  # width, height
        return {(int(h * by[1] + 0.5), int(w * by[0] + 0.5)) for h, w in sizes}
    if transform.get("resize_type", "Resize") not in ("Resize", "mmcv.Resize", "mmdet.Resize"):
        raise UnknownSizeError(f"the effect of {transform['resize_type']} on sizes is unknown")
    scales = _scales(transform.get("scales" if kind == "RandomChoiceResize" else "scale"))
    if not scales:
        raise UnknownSizeError(f"{kind} without a fixed scale")
    if kind == "RandomResize":
        ratios = transform.get("ratio_range") or (1.0, 1.0)
        if len(scales) == 2:  # the ends of a range for each side
            scales = [(a[0], b[1]) for a in scales for b in scales]
        scales = [(int(w * ratio), int(h * ratio)) for w, h in scales for ratio in ratios]
    return {_fit(size, scale, keep_ratio) for size in sizes for scale in scales}


def _fit(size: Size, scale: Sequence[float], keep_ratio: bool) -> Size:
    """Resize like mmcv: as large as long and short side of ``scale`` (width, height) allow."""
    if not keep_ratio:
        return int(scale[1]), int(scale[0])
    factor = min(max(scale) / max(size), min(scale) / min(size))
    return int(size[0] * factor + 0.5), int(size[1] * factor + 0.5)


def _mmseg_crop(transform: Mapping, size: Size, _: Sequence[float]) -> set[Size]:
    """``crop_size`` is a side, or (height, width)."""
    crop = transform["crop_size"]
    crop = (crop, crop) if isinstance(crop, int) else crop
    return {(min(crop[0], size[0]), min(crop[1], size[1]))}


def _mmdet_crop(transform: Mapping, size: Size, proportions: Sequence[float]) -> set[Size]:
    """``crop_size`` is (width, height), in pixels or relative, or a range from the first to the second."""
    first, second = transform["crop_size"]
    kind = transform.get("crop_type", "absolute")
    if kind == "absolute":
        return {(min(second, size[0]), min(first, size[1]))}
    if kind == "relative":
        return {(int(size[0] * second + 0.5), int(size[1] * first + 0.5))}
    if kind == "absolute_range":
        ranges = [(min(side, first), min(side, second)) for side in size]
    else:  # relative_range, of (height, width)
        ranges = [(int(side * low + 0.5), side) for side, low in zip(size, (first, second), strict=True)]
    heights, widths = (
        [low + (high - low) * i // BETWEEN for i in range(BETWEEN + 1)] for low, high in ranges
    )
    crops = {(height, width) for height in heights for width in widths}
    for height in heights:  # those that fill a scale completely lie in between
        wide = (round(height * p) for p in (*proportions, *(1 / p for p in proportions)))
        crops |= {(height, width) for width in wide if ranges[1][0] <= width <= ranges[1][1]}
    return crops


def _pad_transform(transform: Mapping, size: Size) -> Size:
    fixed = transform.get("size")  # width, height
    if transform.get("pad_to_square"):
        fixed = (max(size), max(size))
    if fixed is not None:
        fixed = (fixed, fixed) if isinstance(fixed, int) else fixed
        size = max(size[0], fixed[1]), max(size[1], fixed[0])
    return _up(size, transform.get("size_divisor"))


# ---- batches


def pad(size: Size, preprocessor: Mapping) -> Size:
    """(height, width) of a batch that holds ``size``, as the model's ``data_preprocessor`` pads it."""
    fixed = preprocessor.get("size")  # mmseg: height, width
    size = (max(size[0], fixed[0]), max(size[1], fixed[1])) if fixed else tuple(size)
    size = _up(size, preprocessor.get("pad_size_divisor") or preprocessor.get("size_divisor"))
    for augment in preprocessor.get("batch_augments") or ():
        if augment["type"].endswith("BatchFixedSizePad"):
            size = max(size[0], augment["size"][0]), max(size[1], augment["size"][1])
    return size


def _up(size: Size, divisor: int | None) -> Size:
    """The next multiples of ``divisor``."""
    return tuple(-(-side // divisor) * divisor for side in size) if divisor and divisor > 1 else size


def is_grouped(dataloader: Mapping) -> bool:
    """Whether batches hold only landscape or only upright images."""
    sampler = dataloader.get("batch_sampler")
    return bool(sampler) and bare_type(sampler) == "AspectRatioBatchSampler"
