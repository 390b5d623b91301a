"""Which heads of a swapped config make place for ours: float32 under autocast, faster, or mended."""

from collections.abc import Iterator, Mapping

from mmengine.registry import MODELS as ROOT

from convnext_dense.mm.models.registry import MODELS, SCOPE
from convnext_dense.mm.swap.channels import NOT_CONSUMERS, Change
from convnext_dense.mm.type_names import class_of, type_name
from convnext_dense.support.nested import mappings

UNDER_AMP = "keeps coordinates, losses and NMS in float32 under AMP"
SSD = "predicts; mmdet's own ends in an AttributeError there"
ALWAYS = {  # with and without mixed precision
    "UPerHead": "the same outputs with two thirds of the multiply-adds",
    "SSDHead": SSD,
    "PISASSDHead": SSD,
}


def head_changes(model: Mapping, scope: str, amp: bool) -> Iterator[Change]:
    """Types of heads, RoI heads and RoI extractors of which this package has a better subclass.

    Args:
        model: the model's config.
        scope: ``mmdet``, ``mmseg`` or another registry in which the types are looked up.
        amp: whether the model trains with mixed precision.
    """
    for key, node in model.items():
        if key in NOT_CONSUMERS:
            continue
        for path, part in mappings(node):
            kind = part.get("type")
            reason = ALWAYS.get(type_name(kind), UNDER_AMP if amp else None)
            if reason and _has_subclass(kind, scope):
                yield Change(("model", key, *path, "type"), kind, f"{SCOPE}.{type_name(kind)}", reason)


def _has_subclass(kind: object, scope: str) -> bool:
    """Whether our class of that name is a subclass of exactly the class that ``kind`` means in ``scope``."""
    name = type_name(kind)
    if not name or "." in name:  # of another package
        return False
    old = class_of(f"{scope}.{kind}" if kind == name else kind, ROOT)
    ours = MODELS.get(name)
    return isinstance(old, type) and isinstance(ours, type) and ours is not old and issubclass(ours, old)
