"""The model that has the backbone: the config's own, or one inside it, such as a tracker's detector."""

from collections.abc import Mapping

from convnext_dense.support.nested import Path

# Networks beside the main one: a tracker compares persons with `reid`, a student learns from `teacher_...`.
_BESIDE = ("reid", "teacher")


def backbone_owner(model: object) -> Path | None:
    """Path from a model's config to the one with ``backbone``, e.g. ``("detector",)``; ``None`` without one.

    The model itself comes first, then those inside it in the order of its keys.
    """
    if not isinstance(model, Mapping):
        return None
    if isinstance(model.get("backbone"), Mapping):
        return ()
    for key, inner in model.items():
        found = None if str(key).startswith(_BESIDE) else backbone_owner(inner)
        if found is not None:
            return (key, *found)
    return None


def inner_model(model: Mapping) -> Mapping | None:
    """The config with ``backbone``, see :func:`backbone_owner`."""
    owner = backbone_owner(model)
    for key in owner or ():
        model = model[key]
    return None if owner is None else model
