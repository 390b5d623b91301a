"""Whether the neck and the heads read the levels that our backbone returns."""

from collections.abc import Mapping

from mmengine.config import Config

from convnext_dense.errors import ArgumentError, UserError
from convnext_dense.mm.models.foreign_arguments import in_our_spelling
from convnext_dense.mm.type_names import type_name
from convnext_dense.models.archs import resolve_arch
from convnext_dense.models.convnext import ConvNeXt, resolve_out_indices
from convnext_dense.support.nested import mappings

NOT_OF_THE_CORE = ("type", "init_cfg", "pretrained", "_scope_")
HEADS = ("decode_head", "auxiliary_head")


def backbone_channels(backbone: Mapping) -> tuple[int, ...] | None:
    """Channels of the maps that a config of our ConvNeXt returns; ``None`` for others and wrong arguments."""
    if type_name(backbone) != "ConvNeXt":
        return None
    try:
        dims = resolve_arch(backbone.get("arch", "tiny")).dims
        stages = resolve_out_indices(backbone.get("out_indices", range(len(dims))), len(dims))
    except (ArgumentError, TypeError):  # building the backbone says what is wrong
        return None
    return tuple(dims[stage] for stage in stages)


def check_levels(cfg: Config) -> None:
    """Compare the backbone's levels with what the next module reads.

    Raises:
        UserError: names the entry, the channels that it has and those that it gets; or an argument that the
            backbone does not have.
    """
    model, file = cfg.model, cfg.filename or "the config"
    backbone = model.get("backbone") or {}
    if type_name(backbone) == "ConvNeXt":
        taken = {key: value for key, value in backbone.items() if key not in NOT_OF_THE_CORE}
        try:
            in_our_spelling("ConvNeXt", ConvNeXt.__init__, taken)
        except ArgumentError as error:
            raise UserError(f"{file}: model.backbone: {error}") from None
    channels = backbone_channels(backbone)
    if channels is None:
        return
    gets = f"and model.backbone (arch, out_indices) gives levels with {list(channels)} channels"
    necks = [neck for _, neck in mappings(model.get("neck"), keys=())]
    if necks:
        wanted = necks[0].get("in_channels")
        if isinstance(wanted, list | tuple) and tuple(wanted) != channels:
            raise UserError(f"{file}: model.neck.in_channels is {list(wanted)}, {gets}; write these")
        return
    for name in HEADS:
        for _, head in mappings(model.get(name), keys=()):
            wanted, index = head.get("in_channels"), head.get("in_index", -1)
            many = isinstance(wanted, list | tuple) and isinstance(index, list | tuple)
            pairs = list(zip(index, wanted, strict=False)) if many else [(index, wanted)]
            for level, count in pairs:
                if not isinstance(level, int) or not isinstance(count, int):
                    continue
                if not -len(channels) <= level < len(channels):
                    raise UserError(f"{file}: model.{name}.in_index is {index}, {gets}: there is no {level}")
                if channels[level] != count:
                    raise UserError(
                        f"{file}: model.{name}.in_channels is {wanted} for in_index {index}, {gets}"
                    )
