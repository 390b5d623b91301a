"""How a ConvNeXt takes the place of a backbone: its stages as they are, with coarser ones, or a pyramid."""

import copy
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import NamedTuple

from convnext_dense.mm.swap.channels import Change, consumer_changes, read_levels
from convnext_dense.mm.swap.probe import STRIDES, Levels, RefusedError, Stages, choose_stages, passed_on
from convnext_dense.mm.type_names import type_name
from convnext_dense.support.nested import mappings

ALL = Stages((0, 1, 2, 3), 32)
THREE = Stages((2,), 32)  # the last of three
MakeBackbone = Callable[..., dict]  # (stages, type, **options) -> config of a ConvNeXt


class Form(NamedTuple):
    """The new backbone, the stages that it returns, and changes of the model's other parts."""

    backbone: dict
    stages: Stages
    changes: list[Change]


def choose_form(model: Mapping, levels: Levels, dims: tuple[int, ...], make: MakeBackbone) -> Form:
    """Choose by the levels of the old backbone and by the parts that continue it.

    Args:
        model: config of the model, with ``backbone``.
        levels: maps of the old backbone.
        dims: channels of the ConvNeXt's four stages.
        make: config of the ConvNeXt from stages, type and further options.

    Raises:
        RefusedError: no form fits.
    """
    if has_feedback(model):
        return _recursive(model, levels, dims, make)
    if (model.get("roi_head") or {}).get("shared_head"):
        return _shared_head(model, levels, dims, make)
    coarser = _coarser(levels.strides)
    if coarser:
        return _with_coarser(model, levels, dims, make, coarser)
    try:
        stages = choose_stages(levels)
    except RefusedError:
        return _pyramid(model, levels, dims, make)
    new = tuple(dims[i] for i in stages.out_indices)
    passed = passed_on(model.get("neck"), levels)
    # a fourth stage that nobody reads would have no gradient
    backbone = make(stages, "ConvNeXtTrunk") if stages == THREE else make(stages)
    return Form(backbone, stages, list(consumer_changes(model, levels.channels, new, passed)))


def has_feedback(model: Mapping) -> bool:
    """Whether the neck runs a second backbone on its own output (RFP)."""
    return any("rfp_backbone" in neck for _, neck in mappings(model.get("neck"), keys=()))


def _recursive(model: Mapping, levels: Levels, dims: tuple[int, ...], make: MakeBackbone) -> Form:
    """The recursive feature pyramid: both of its backbones become ConvNeXts."""
    stages = choose_stages(levels)
    if stages != ALL or not isinstance(model["neck"], Mapping):
        raise RefusedError(f"an RFP over levels of strides {list(levels.strides)}; ConvNeXt's takes 4 to 32")
    old = model["neck"]["rfp_backbone"]
    new = make(stages, "RFPConvNeXt", rfp_inplanes=old.get("rfp_inplanes"))
    why = "the pyramid's own backbone, which reads the image and the first pyramid"
    neck = {key: value for key, value in model["neck"].items() if key != "rfp_backbone"}
    changes = [
        *consumer_changes(dict(model, neck=neck), levels.channels, dims, {}),
        Change(("model", "neck", "rfp_backbone"), old, new, why),
    ]
    return Form(make(stages, "RFPConvNeXt", output_img=True), stages, changes)


def _shared_head(model: Mapping, levels: Levels, dims: tuple[int, ...], make: MakeBackbone) -> Form:
    """C4: three stages on the image, the fourth on each region, which makes half its size of it."""
    old = model["roi_head"]["shared_head"]
    if levels.strides != (16,) or type_name(old) != "ResLayer" or old.get("stride", 2) != 2:
        raise RefusedError(
            f"roi_head.shared_head ({type_name(old)}) over strides {list(levels.strides)}; a ConvNeXt's last "
            "stage takes a ResLayer's place over stride 16, if that has stride 2"
        )
    stages = THREE
    backbone = make(stages, "ConvNeXtTrunk")
    head = {key: value for key, value in backbone.items() if key not in ("out_indices", "in_channels")}
    head["type"] = "ConvNeXtLastStage"
    channels = (levels.channels[0], 2 * levels.channels[0])  # of a ResLayer: twice those of its input
    changes = [
        *consumer_changes(model, channels, dims[2:], {}),
        Change(("model", "roi_head", "shared_head"), old, head, "the fourth stage, run on each region"),
    ]
    return Form(backbone, stages, changes)


def _coarser(strides: tuple[int, ...]) -> int:
    """Number of levels coarser than ConvNeXt's last after a plain pyramid: 1 for (8, 16, 32, 64)."""
    rising = all(b == 2 * a for a, b in pairwise(strides))
    return sum(stride > STRIDES[-1] for stride in strides) if rising and strides[0] in STRIDES else 0


def _with_coarser(
    model: Mapping, levels: Levels, dims: tuple[int, ...], make: MakeBackbone, count: int
) -> Form:
    """ConvNeXt's stages, and a neck before the old one that appends levels."""
    kept = len(levels.strides) - count
    stages = choose_stages(Levels(levels.channels[:kept], levels.strides[:kept], levels.dilated))
    new = (*(dims[i] for i in stages.out_indices), *[dims[-1]] * count)
    added = dict(type="CoarserLevels", in_channels=dims[-1], count=count)
    why = f"appends strides {list(levels.strides[kept:])}, which the old backbone had"
    return _with_neck(model, make(stages), stages, added, why, levels.channels, new)


def _pyramid(model: Mapping, levels: Levels, dims: tuple[int, ...], make: MakeBackbone) -> Form:
    """A feature pyramid that gives the maps of the old backbone's branches or decoder."""
    count = len(levels.strides)
    read = range(count) if levels.test_level is not None else read_levels(model, count)
    finest = min(levels.strides[i] for i in read)
    first = next(i for i, stride in enumerate(STRIDES) if stride >= min(max(finest, 4), 32))
    stages = Stages(ALL.out_indices[first:], 32)
    added = dict(
        type="LevelPyramid",
        in_channels=list(dims[first:]),
        strides=list(levels.strides),
        out_channels=[channels if i in read else 0 for i, channels in enumerate(levels.channels)],
    )
    if levels.test_level is not None:
        added["test_level"] = levels.test_level
    why = "gives the maps that the old backbone's branches or decoder gave, from strides 4 to 32"
    return _with_neck(model, make(stages), stages, added, why)


def _with_neck(
    model: Mapping,
    backbone: dict,
    stages: Stages,
    added: dict,
    why: str,
    old: tuple[int, ...] = (),
    new: tuple[int, ...] = (),
) -> Form:
    """A neck before the old one, whose readers get ``new`` in place of ``old`` channels."""
    adapted = copy.deepcopy(dict(model))
    others = []
    for change in consumer_changes(model, old, new, {}) if old else ():
        if change.path[1] != "neck":
            others.append(change)
            continue
        node = adapted
        for key in change.path[1:-1]:
            node = node[key]
        node[change.path[-1]] = change.new
    necks = [neck for _, neck in mappings(adapted.get("neck"), keys=())]
    neck = [added, *necks] if necks else added
    return Form(backbone, stages, [Change(("model", "neck"), model.get("neck"), neck, why), *others])
