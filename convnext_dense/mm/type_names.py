"""Names of the types in a config: ``mmdet.Resize``, ``Resize`` and the class itself are one type."""

from collections.abc import Mapping

# A type of another package keeps its scope: under the same name it may be another class.
PACKAGES = ("mmengine", "mmcv", "mmdet", "mmseg", "mmpretrain", "convnext_dense")
# Classes that mmengine registers under another name than their own.
REGISTERED = {"PretrainedInit": "Pretrained", "torch.nn.modules.batchnorm.SyncBatchNorm": "SyncBN"}


def type_name(entry: object) -> str:
    """Name under which a type is registered, without the scope of OpenMMLab's packages and ours.

    Args:
        entry: a config with ``type``, or a type: a name with or without scope, an import path, a class, or
            mmengine's lazy object for one.

    Returns:
        The name, ``""`` if there is no type, or a value that is none; ``package.module.Name`` for a type of
        another package.
    """
    kind = entry.get("type") if isinstance(entry, Mapping) else entry
    if kind is None:
        return ""
    if not isinstance(kind, str):
        if not hasattr(kind, "__qualname__") and not hasattr(kind, "module"):
            return ""  # a mistake in the config: no type has such a value
        own = getattr(kind, "__qualname__", None)  # a lazy object has any attribute, none of them a string
        kind = f"{kind.__module__}.{own}" if isinstance(own, str) else f"{kind.module}.{kind}"
    package, _, rest = kind.partition(".")
    name = kind.rpartition(".")[2] if rest and package in PACKAGES else kind
    return REGISTERED.get(name, name)


def class_of(kind: object, registry: object) -> object:
    """The class of a type; a name is looked up in mmengine's ``registry``, and gives ``None`` if unknown."""
    return registry.get(kind) if isinstance(kind, str) else kind


def is_pretrained(init: object) -> bool:
    """Whether an ``init_cfg`` names weights."""
    return isinstance(init, Mapping) and type_name(init) == "Pretrained"
