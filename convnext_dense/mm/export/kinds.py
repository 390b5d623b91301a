"""Which models can be exported, and why others cannot.

A detector can if what follows its forward passes is mmdet's common code, which `detectors` repeats with fixed
sizes. So the question is whose methods a head has, not what its class is called.
"""

from collections.abc import Callable, Iterator

from torch import nn

Reason = str


def written_in(module: nn.Module, method: str) -> str:
    """Name of the class that a method comes from, without our wrappers: ``BaseDenseHead`` for RetinaNet's."""
    found: Callable = getattr(type(module), method)
    while hasattr(found, "__wrapped__"):
        found = found.__wrapped__
    return found.__qualname__.rpartition(".")[0]


def is_detector(model: nn.Module) -> bool:
    """Whether a model predicts boxes."""
    return any(hasattr(model, name) for name in ("bbox_head", "roi_head", "query_head"))


def why_not(model: nn.Module) -> Reason | None:
    """The reason why a model cannot be exported, or ``None``."""
    reasons = _of_detector(model) if is_detector(model) else _of_segmentor(model)
    return next(reasons, None)


def _of_segmentor(model: nn.Module) -> Iterator[Reason]:
    if not hasattr(model, "encode_decode"):
        yield f"{type(model).__name__} is neither a detector of mmdet nor an encoder-decoder of mmseg"
        return
    if written_in(model, "predict") != "EncoderDecoder" or written_in(model, "inference") != "EncoderDecoder":
        yield f"{type(model).__name__} predicts with code of its own; encoder-decoders of mmseg can"
        return
    if (getattr(model.data_preprocessor, "test_cfg", None) or {}).get("size"):
        yield "data_preprocessor.test_cfg pads to one size; it can with size_divisor, or without test_cfg"
    heads = model.decode_head if isinstance(model.decode_head, nn.ModuleList) else [model.decode_head]
    for head in heads:
        if written_in(head, "predict") != "BaseDecodeHead":
            yield f"{type(head).__name__} predicts with code of its own; heads that give logits per pixel can"


def _of_detector(model: nn.Module) -> Iterator[Reason]:
    name = type(model).__name__
    if written_in(model, "predict") not in ("SingleStageDetector", "TwoStageDetector"):
        yield f"{name} predicts with code of its own; single-stage and two-stage detectors can"
        return
    two_stage = hasattr(model, "roi_head")
    if two_stage and not hasattr(model, "rpn_head"):
        yield f"{name} has no RPN; its proposals come from elsewhere"
        return
    head, cfg = (model.rpn_head, model.test_cfg["rpn"]) if two_stage else (model.bbox_head, model.test_cfg)
    yield from _of_dense_head(head, cfg, "RPNHead" if two_stage else "BaseDenseHead")
    if two_stage:
        yield from _of_roi_head(model.roi_head, model.test_cfg["rcnn"])


def _of_dense_head(head: nn.Module, cfg: dict, written: str) -> Iterator[Reason]:
    name = type(head).__name__
    if not hasattr(head, "_predict_by_feat_single") or not hasattr(head, "prior_generator"):
        yield f"{name} predicts without anchors or points; it has no common code to export"
        return
    for method, place in (
        ("predict_by_feat", "BaseDenseHead"),
        ("_predict_by_feat_single", written),
        ("_bbox_post_process", written),
        ("predict", "BaseDenseHead"),
    ):
        if written_in(head, method) != place:
            yield f"{name} has its own {method}"
    if getattr(getattr(head, "loss_cls", None), "custom_cls_channels", False):
        yield f"{name} has a loss with class channels of its own"
    yield from _of_coder(head)
    if not int(cfg.get("nms_pre", -1)) > 0:
        yield "test_cfg has no nms_pre above 0, so the number of boxes before NMS depends on the image"
    yield from _of_nms(cfg, "model.test_cfg.rpn" if written == "RPNHead" else "model.test_cfg")


def _of_roi_head(head: nn.Module, cfg: dict) -> Iterator[Reason]:
    name = type(head).__name__
    if name not in ("StandardRoIHead", "CascadeRoIHead") or written_in(head, "predict_bbox") != name:
        yield f"{name} has code of its own; StandardRoIHead and CascadeRoIHead can"
        return
    if head.with_shared_head:
        yield f"{name} has a shared head after RoIAlign, as the C4 models"
    boxes, masks = (as_list(getattr(head, part, None)) for part in ("bbox_head", "mask_head"))
    for box in boxes:
        if written_in(box, "_predict_by_feat_single") != "BBoxHead" or not box.with_reg or not box.with_cls:
            yield f"{type(box).__name__} has code of its own"
        elif box.custom_cls_channels or box.custom_activation:
            yield f"{type(box).__name__} has a loss with an activation of its own"
        yield from _of_coder(box)
    for mask in masks:
        if type(mask).__name__ != "FCNMaskHead":
            yield f"{type(mask).__name__} is no FCNMaskHead"
    for part in ("bbox_roi_extractor", "mask_roi_extractor"):
        for extractor in as_list(getattr(head, part, None)):
            yield from _of_extractor(extractor)
    yield from _of_nms(cfg, "model.test_cfg.rcnn")


def _of_extractor(extractor: nn.Module) -> Iterator[Reason]:
    if type(extractor).__name__ != "SingleRoIExtractor":
        yield f"{type(extractor).__name__} is no SingleRoIExtractor"
        return
    for layer in extractor.roi_layers:
        if type(layer).__name__ != "RoIAlign" or layer.pool_mode != "avg" or not layer.aligned:
            yield "its RoI layers are no RoIAlign with averages and aligned=True"


def _of_coder(head: nn.Module) -> Iterator[Reason]:
    coder = head.bbox_coder
    known = ("DeltaXYWHBBoxCoder", "DistancePointBBoxCoder")
    if type(coder).__name__ not in known:
        yield f"{type(head).__name__} codes boxes with {type(coder).__name__}; use one of {known}"
    elif getattr(coder, "add_ctr_clamp", False):
        yield f"{type(head).__name__} limits how far a box may move (add_ctr_clamp)"


def _of_nms(cfg: dict, key: str) -> Iterator[Reason]:
    nms = cfg.get("nms") or {}
    plain = {"type": "nms", **{name: value for name, value in nms.items() if value}}
    plain.pop("split_thr", None)  # how many boxes at once: the same result
    if plain.pop("type") != "nms":
        yield f"test_cfg has nms={dict(nms)}; plain nms can: --cfg-options {key}.nms.type=nms"
    elif plain.keys() != {"iou_threshold"}:
        yield f"test_cfg has nms={dict(nms)}; nms per class with iou_threshold alone can"


def as_list(modules: nn.Module | None) -> list[nn.Module]:
    """The stages of a cascade, the one module there is, or nothing."""
    if modules is None:
        return []
    return list(modules) if isinstance(modules, nn.ModuleList) else [modules]
