"""Which heads of a swapped config are replaced by those that stay in float32 under autocast."""

from collections.abc import Iterator, Mapping

from mmengine.registry import MODELS as ROOT

from convnext_dense.mm.models.registry import MODELS, SCOPE
from convnext_dense.mm.swap.channels import NOT_CONSUMERS, Change
from convnext_dense.mm.type_names import class_of, type_name
from convnext_dense.support.nested import mappings

WHY = "keeps coordinates, losses and NMS in float32 under AMP"


def float32_changes(model: Mapping, scope: str) -> Iterator[Change]:
    """Types of heads, RoI heads and RoI extractors of which this package has a corrected subclass.

    Args:
        model: the model's config.
        scope: ``mmdet``, ``mmseg`` or another registry in which the types are looked up.
    """
    for key, node in model.items():
        if key in NOT_CONSUMERS:
            continue
        for path, part in mappings(node):
            kind = part.get("type")
            if _has_mended(kind, scope):
                yield Change(("model", key, *path, "type"), kind, f"{SCOPE}.{type_name(kind)}", WHY)


def _has_mended(kind: object, scope: str) -> bool:
    """Whether our class of that name is a subclass of exactly the class that ``kind`` means in ``scope``."""
    name = type_name(kind)
    if not name or "." in name:  # of another package
        return False
    old = class_of(f"{scope}.{kind}" if kind == name else kind, ROOT)
    ours = MODELS.get(name)
    return isinstance(old, type) and isinstance(ours, type) and ours is not old and issubclass(ours, old)
