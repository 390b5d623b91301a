"""Heads and RoI extractors that keep coordinates, targets, losses and NMS in float32 under autocast.

The released code was written for mmdet 2.11 and mmseg 0.11. There the convolutions and products of a head
ran in half precision, and the decorator ``force_fp32`` ran everything after them in float32: anchors,
decoding, proposals, RoIs, RoIAlign, targets and losses. mmdet 3 and mmseg 1 dropped the decorator, so:

- RoIs take the dtype of the features: in fp16 the area of a box above 65,504 square pixels overflows and
  the box goes to the coarsest level, and coordinates move by up to half a pixel;
- anchors, decoded proposals and their scores are rounded to half precision before NMS;
- segmentation logits are resized in half precision before the loss.

Here every head and extractor of the installed toolboxes gets a subclass of the same name in the scope
``convnext_dense``, with the same parameters. It casts its half-precision inputs to float32 and switches
autocast off around the methods of ``METHODS``. Without autocast it changes nothing.
"""

import functools
import importlib
from collections.abc import Callable

from mmengine.registry import Registry

from convnext_dense.mm.models.precision import full_precision, to_float32
from convnext_dense.mm.models.registry import MODELS

METHODS: dict[str, tuple[str, ...]] = {
    "mmdet.models.dense_heads": ("loss_by_feat", "predict_by_feat", "refine_bboxes"),
    "mmdet.models.roi_heads.bbox_heads": (
        "loss_and_target",
        "get_targets",
        "loss",
        "refine_bboxes",
        "regress_by_class",
        "predict_by_feat",
    ),
    "mmdet.models.roi_heads.mask_heads": ("loss_and_target", "get_targets", "loss", "predict_by_feat"),
    "mmdet.models.roi_heads.roi_extractors": ("forward",),
    "mmseg.models.decode_heads": ("loss_by_feat", "predict_by_feat"),
}
"""Package of the toolboxes -> methods of its classes that run in float32."""

# Its constructor checks ``self.__class__ is DETRHead`` and rejects its own config in a subclass.
WITHOUT_SUBCLASS = ("DETRHead",)


def in_float32(method: Callable) -> Callable:
    """Wrap a method: its half-precision arguments become float32, and it runs without autocast."""

    @functools.wraps(method)
    def run(self, *args, **kwargs):
        with full_precision():
            return method(self, *to_float32(args), **to_float32(kwargs))

    return run


def pooled_in_float32(forward: Callable) -> Callable:
    """Wrap the ``forward`` of a RoI extractor: levels (N, C, H, W) and RoIs (K, 5) -> (K, C, P, Q).

    Levels and RoIs are float32 inside; the result has the dtype of the levels, as in the release.
    """
    in_full = in_float32(forward)

    @functools.wraps(forward)
    def run(self, feats, *args, **kwargs):
        return in_full(self, feats, *args, **kwargs).to(feats[0].dtype)

    return run


def float32_subclass(base: type, methods: tuple[str, ...]) -> type:
    """Subclass of ``base`` with its name and parameters; its ``methods``, where present, run in float32."""
    wrap = pooled_in_float32 if methods == ("forward",) else in_float32
    given = {name: getattr(base, name) for name in methods if hasattr(base, name)}
    if methods == METHODS["mmseg.models.decode_heads"]:
        from convnext_dense.mm.models.segmentation_logits import leaner_methods  # mmseg is there

        given |= leaner_methods(base)
    body = {name: wrap(method) for name, method in given.items()}
    if any(ancestor.__name__ == "SSDHead" for ancestor in base.__mro__):
        body["loss_cls"] = None  # mmdet 3.3's prediction asks for it, and SSD's heads have none
    note = f"mmdet's or mmseg's ``{base.__name__}``; always in float32: {', '.join(body)}."
    return type(base.__name__, (base,), {**body, "__doc__": note, "__module__": __name__})


def register_heads(source: Registry) -> None:
    """Give every head and extractor in ``source`` a float32 subclass in our scope.

    A name that is taken keeps its first class: mmseg repeats a few names of mmdet.
    """
    for name, base in source.module_dict.items():
        package = next((p for p in METHODS if getattr(base, "__module__", "").startswith(p)), None)
        if package and name not in (*MODELS.module_dict, *WITHOUT_SUBCLASS):
            MODELS.register_module(name=name, module=float32_subclass(base, METHODS[package]))


for _toolbox in ("mmdet", "mmseg"):
    try:
        importlib.import_module(f"{_toolbox}.models")  # fills its registry
        register_heads(importlib.import_module(f"{_toolbox}.registry").MODELS)
    except ModuleNotFoundError as _error:  # one toolbox is enough
        if _error.name != _toolbox:
            raise
