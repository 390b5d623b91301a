"""Which heads of a swapped config are replaced by those that stay in float32 under autocast."""

from collections.abc import Iterator, Mapping

from mmengine.registry import MODELS as ROOT

from convnext_dense.mm.models.registry import MODELS, SCOPE
from convnext_dense.mm.swap.channels import NOT_CONSUMERS, Change, Path

WHY = "keeps coordinates, losses and NMS in float32 under AMP"


def float32_changes(model: Mapping, scope: str) -> Iterator[Change]:
    """Types of heads, RoI heads and RoI extractors of which this package has a corrected subclass.

    Args:
        model: the model's config.
        scope: ``mmdet``, ``mmseg`` or another registry in which the types are looked up.
    """
    for key, node in model.items():
        if key not in NOT_CONSUMERS:
            yield from _below(node, ("model", key), scope)


def _below(node: object, path: Path, scope: str) -> Iterator[Change]:
    if isinstance(node, list | tuple):
        for i, item in enumerate(node):
            yield from _below(item, (*path, i), scope)
    if not isinstance(node, Mapping):
        return
    kind = node.get("type")
    if isinstance(kind, str) and _has_mended(kind, scope):
        yield Change((*path, "type"), kind, f"{SCOPE}.{kind.rpartition('.')[2]}", WHY)
    for key, value in node.items():
        yield from _below(value, (*path, key), scope)


def _has_mended(kind: str, scope: str) -> bool:
    """Whether our class of that name is a subclass of exactly the class that ``kind`` means in ``scope``."""
    prefix, _, name = kind.rpartition(".")
    old = ROOT.get(f"{prefix or scope}.{name}")
    ours = MODELS.get(name) if prefix != SCOPE else None
    return isinstance(old, type) and isinstance(ours, type) and ours is not old and issubclass(ours, old)
