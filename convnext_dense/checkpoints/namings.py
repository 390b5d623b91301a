"""Tables that map parameter names of other code bases to ours, and back.

Ours are the names of the released code: ``downsample_layers``, ``stages`` (isotropic:
``stem``, ``blocks``), one ``norm{s}`` per output level of a dense backbone, ``norm`` and
``head`` of a classifier. A row pairs a template of theirs with one of ours; ``None``
drops the tensor by name, because no model here uses it. A key that is in no row
raises.

Placeholders: ``{s}`` a stage, ``{b}`` a block, ``{p}`` weight or bias.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Literal, NamedTuple

Layout = Literal["", "convolution", "scale", "vector", "sparse"]

PLACEHOLDERS = {"{s}": r"(?P<s>[0-3])", "{b}": r"(?P<b>\d+)", "{p}": r"(?P<p>weight|bias)"}

# Where a backbone sits inside a whole model: ImageClassifier's timm wrapper, MM models,
# transformers' task models and OpenCLIP. Other keys belong to other parts of that model.
CONTAINERS = ("backbone.timm_model.", "backbone.", "convnextv2.", "convnext.", "model.", "visual.trunk.")


class Row(NamedTuple):
    """One pair of templates, and how their tensor is laid out where it differs from ours.

    ``layout``: ``convolution`` (O, I, 1, 1) for our (O, I); ``scale`` (C, 1, 1) and
    ``vector`` (C,) for one value per channel; ``sparse`` MinkowskiEngine's flattened kernels.
    """

    theirs: str
    ours: str | None
    layout: Layout = ""


class Naming(NamedTuple):
    """How one code base names the parameters of a ConvNeXt.

    Attributes:
        name: printed in the loading report.
        marks: templates; every such checkpoint has a key for each of them.
        rows: renaming table over whole keys.
        has_output_norms: whether the file must have every output norm; if not,
            missing ones keep their initial value.
    """

    name: str
    marks: tuple[str, ...]
    rows: tuple[Row, ...]
    has_output_norms: bool = False


def _same(*templates: str) -> tuple[Row, ...]:
    return tuple(Row(template, template) for template in templates)


_STEM = _same("downsample_layers.{s}.0.{p}", "downsample_layers.{s}.1.{p}")
_LAYERS = ("dwconv", "norm", "pwconv1", "pwconv2")


def _block(place: str, *names: str) -> tuple[Row, ...]:
    """The layers of a block that are at ``place`` and have these names there, in the order of `_LAYERS`."""
    return tuple(
        Row(f"{place}.{theirs}.{{p}}", f"stages.{{s}}.{{b}}.{ours}.{{p}}")
        for theirs, ours in zip(names, _LAYERS, strict=True)
    )


_OURS = (
    *_STEM,
    *_block("stages.{s}.{b}", *_LAYERS),
    *_same(
        *(f"stages.{{s}}.{{b}}.{part}" for part in ("gamma", "grn.gamma", "grn.beta")),
    ),
)
_HEAD = _same("norm.{p}", "head.{p}")
_OUTPUT_NORMS = _same("norm{s}.{p}")

_ISOTROPIC = _same(
    "stem.{p}",
    *(f"blocks.{{b}}.{part}.{{p}}" for part in _LAYERS),
    "blocks.{b}.gamma",
)

# DINOv3 normalises the last map with its final norm, stored under two names.
_DINOV3 = (*_OURS, *_HEAD, Row("norms.{s}.{p}", "norm{s}.{p}"))

_FCMAE = (
    *(Row(f"encoder.downsample_layers.0.{i}.{{p}}", f"downsample_layers.0.{i}.{{p}}") for i in (0, 1)),
    Row("encoder.downsample_layers.{s}.0.ln.{p}", "downsample_layers.{s}.0.{p}"),
    Row("encoder.downsample_layers.{s}.1.kernel", "downsample_layers.{s}.1.weight", "sparse"),
    Row("encoder.downsample_layers.{s}.1.bias", "downsample_layers.{s}.1.bias", "sparse"),
    Row("encoder.stages.{s}.{b}.dwconv.kernel", "stages.{s}.{b}.dwconv.weight", "sparse"),
    Row("encoder.stages.{s}.{b}.dwconv.bias", "stages.{s}.{b}.dwconv.bias", "sparse"),
    Row("encoder.stages.{s}.{b}.norm.ln.{p}", "stages.{s}.{b}.norm.{p}"),
    Row("encoder.stages.{s}.{b}.pwconv1.linear.{p}", "stages.{s}.{b}.pwconv1.{p}"),
    Row("encoder.stages.{s}.{b}.pwconv2.linear.{p}", "stages.{s}.{b}.pwconv2.{p}"),
    Row("encoder.stages.{s}.{b}.grn.gamma", "stages.{s}.{b}.grn.gamma", "sparse"),
    Row("encoder.stages.{s}.{b}.grn.beta", "stages.{s}.{b}.grn.beta", "sparse"),
    # the decoder of the pre-training task
    Row("mask_token", None),
    Row("proj.{p}", None),
    Row("pred.{p}", None),
    *(Row(f"decoder.{{b}}.{part}.{{p}}", None) for part in _LAYERS),
    *(Row(f"decoder.{{b}}.{part}", None) for part in ("gamma", "grn.gamma", "grn.beta")),
)


def _timm(stem: str, stage: str, pointwise: Layout = "") -> tuple[Row, ...]:
    block = f"{stage}.blocks.{{b}}"
    return (
        Row(f"{stem}0.{{p}}", "downsample_layers.0.0.{p}"),
        Row(f"{stem}1.{{p}}", "downsample_layers.0.1.{p}"),
        *(Row(f"{stage}.downsample.{i}.{{p}}", f"downsample_layers.{{s}}.{i}.{{p}}") for i in (0, 1)),
        Row(f"{block}.conv_dw.{{p}}", "stages.{s}.{b}.dwconv.{p}"),
        Row(f"{block}.norm.{{p}}", "stages.{s}.{b}.norm.{p}"),
        Row(f"{block}.mlp.fc1.weight", "stages.{s}.{b}.pwconv1.weight", pointwise),
        Row(f"{block}.mlp.fc1.bias", "stages.{s}.{b}.pwconv1.bias"),
        Row(f"{block}.mlp.fc2.weight", "stages.{s}.{b}.pwconv2.weight", pointwise),
        Row(f"{block}.mlp.fc2.bias", "stages.{s}.{b}.pwconv2.bias"),
        Row(f"{block}.mlp.grn.weight", "stages.{s}.{b}.grn.gamma", "vector"),
        Row(f"{block}.mlp.grn.bias", "stages.{s}.{b}.grn.beta", "vector"),
        Row(f"{block}.gamma", "stages.{s}.{b}.gamma"),
        Row("head.norm.{p}", "norm.{p}"),
        Row("head.fc.{p}", "head.{p}"),
    )


_TIMM_VARIANTS = (
    Row("norm_pre.{p}", "norm3.{p}"),  # norms the last map instead of its mean
    Row("head.pre_logits.fc.{p}", None),
)


_TORCHVISION = (
    Row("features.0.0.{p}", "downsample_layers.0.0.{p}"),
    Row("features.0.1.{p}", "downsample_layers.0.1.{p}"),
    *(
        Row(f"features.{2 * s}.{i}.{{p}}", f"downsample_layers.{s}.{i}.{{p}}")
        for s in (1, 2, 3)
        for i in (0, 1)
    ),
    *(
        Row(f"features.{2 * s + 1}.{{b}}.block.{i}.{{p}}", f"stages.{s}.{{b}}.{part}.{{p}}")
        for s in range(4)
        for i, part in ((0, "dwconv"), (2, "norm"), (3, "pwconv1"), (5, "pwconv2"))
    ),
    *(Row(f"features.{2 * s + 1}.{{b}}.layer_scale", f"stages.{s}.{{b}}.gamma", "scale") for s in range(4)),
    Row("classifier.0.{p}", "norm.{p}"),
    Row("classifier.2.{p}", "head.{p}"),
)

_TRANSFORMERS = (
    Row("embeddings.patch_embeddings.{p}", "downsample_layers.0.0.{p}"),
    Row("embeddings.layernorm.{p}", "downsample_layers.0.1.{p}"),
    *(
        Row(f"encoder.stages.{{s}}.downsampling_layer.{i}.{{p}}", f"downsample_layers.{{s}}.{i}.{{p}}")
        for i in (0, 1)
    ),
    *_block("encoder.stages.{s}.layers.{b}", "dwconv", "layernorm", "pwconv1", "pwconv2"),
    Row("encoder.stages.{s}.layers.{b}.layer_scale_parameter", "stages.{s}.{b}.gamma"),
    Row("encoder.stages.{s}.layers.{b}.grn.weight", "stages.{s}.{b}.grn.gamma"),
    Row("encoder.stages.{s}.layers.{b}.grn.bias", "stages.{s}.{b}.grn.beta"),
    Row("layernorm.{p}", "norm.{p}"),
    Row("classifier.{p}", "head.{p}"),
    *(Row(f"hidden_states_norms.stage{s + 1}.{{p}}", f"norm{s}.{{p}}") for s in range(4)),
    Row("hidden_states_norms.stem.{p}", None),
)

_TRANSFORMERS_DINOV3 = (
    *(Row(f"stages.{{s}}.downsample_layers.{i}.{{p}}", f"downsample_layers.{{s}}.{i}.{{p}}") for i in (0, 1)),
    *_block("stages.{s}.layers.{b}", "depthwise_conv", "layer_norm", "pointwise_conv1", "pointwise_conv2"),
    Row("stages.{s}.layers.{b}.gamma", "stages.{s}.{b}.gamma"),
    Row("layer_norm.{p}", "norm3.{p}"),
)

_MMPRETRAIN_BODY = (
    *_STEM,
    *_block("stages.{s}.{b}", "depthwise_conv", "norm", "pointwise_conv1", "pointwise_conv2"),
    Row("stages.{s}.{b}.gamma", "stages.{s}.{b}.gamma"),
    Row("stages.{s}.{b}.grn.gamma", "stages.{s}.{b}.grn.gamma", "vector"),
    Row("stages.{s}.{b}.grn.beta", "stages.{s}.{b}.grn.beta", "vector"),
)
# mmpretrain's classifier calls the norm after its mean ``norm3``; a dense backbone has one of that name too.
_MMPRETRAIN_CLASSIFIER = (*_MMPRETRAIN_BODY, Row("norm3.{p}", "norm.{p}"), Row("head.fc.{p}", "head.{p}"))

_MMPRETRAIN_MARK = "stages.{s}.{b}.depthwise_conv.{p}"
NAMINGS: tuple[Naming, ...] = (
    Naming("facebook DINOv3", ("downsample_layers.{s}.0.{p}", "norms.{s}.{p}"), _DINOV3),
    Naming(
        "mmpretrain", (_MMPRETRAIN_MARK, "norm0.{p}"), _MMPRETRAIN_BODY + _OUTPUT_NORMS, has_output_norms=True
    ),
    Naming("mmpretrain classifier", (_MMPRETRAIN_MARK, "head.fc.{p}"), _MMPRETRAIN_CLASSIFIER),
    Naming("mmpretrain", (_MMPRETRAIN_MARK,), _MMPRETRAIN_BODY + _OUTPUT_NORMS),
    Naming(
        "dense",
        ("downsample_layers.{s}.0.{p}", "norm{s}.{p}"),
        _OURS + _OUTPUT_NORMS,
        has_output_norms=True,
    ),
    Naming("facebook", ("downsample_layers.{s}.0.{p}",), _OURS + _HEAD),
    Naming("isotropic", ("stem.{p}", "blocks.{b}.dwconv.{p}"), _ISOTROPIC + _HEAD + _OUTPUT_NORMS),
    Naming("FCMAE", ("encoder.downsample_layers.{s}.1.kernel",), _FCMAE),
    Naming(
        "timm",
        ("stem.0.{p}", "stages.{s}.blocks.{b}.conv_dw.{p}"),
        _timm("stem.", "stages.{s}") + _TIMM_VARIANTS,
    ),
    Naming("timm features", ("stages_{s}.blocks.{b}.conv_dw.{p}",), _timm("stem_", "stages_{s}")),
    Naming("torchvision", ("features.1.{b}.block.0.{p}",), _TORCHVISION),
    Naming("transformers", ("embeddings.patch_embeddings.{p}",), _TRANSFORMERS),
    Naming("transformers DINOv3", ("stages.{s}.layers.{b}.depthwise_conv.{p}",), _TRANSFORMERS_DINOV3),
)

EXPORTS: dict[str, tuple[Row, ...]] = {
    "facebook": _OURS + _HEAD + _OUTPUT_NORMS + _ISOTROPIC,
    "timm": _timm("stem.", "stages.{s}"),
    "timm-conv": _timm("stem.", "stages.{s}", "convolution"),  # timm's atto, femto, pico and nano
    "torchvision": _TORCHVISION,
    "hf": _TRANSFORMERS,
    "mmpretrain": _MMPRETRAIN_BODY + _OUTPUT_NORMS,
    "mmpretrain-classifier": _MMPRETRAIN_CLASSIFIER,
}


class Renamed(NamedTuple):
    """The result of :func:`rename`.

    Attributes:
        naming: naming of the file.
        names: checkpoint key -> (our name, layout of the tensor).
        dropped: keys that a row drops by name.
        beside: keys of other parts of a whole model, such as ``neck.`` and ``roi_head.``.
        container: prefix of the backbone inside a whole model, or ``""``.
    """

    naming: Naming
    names: Mapping[str, tuple[str, Layout]]
    dropped: tuple[str, ...]
    beside: tuple[str, ...]
    container: str


def rename(keys: Iterable[str]) -> Renamed:
    """Detect the naming of a checkpoint by its keys and rename them by table.

    Raises:
        KeyError: no naming fits, or the backbone has keys that are not in its table, or
            two keys stand for the same parameter (the first few are named).
    """
    keys = list(keys)
    container = next((c for c in CONTAINERS if any(key.startswith(c) for key in keys)), "")
    short = {key: key.removeprefix(container) for key in keys}
    naming = _detect(list(short.values()))
    table = _compile(tuple((row.theirs, row.ours, row.layout) for row in naming.rows))
    names: dict[str, tuple[str, Layout]] = {}
    dropped: list[str] = []
    beside: list[str] = []
    unknown: list[str] = []
    for key, bare in short.items():
        inside = key.startswith(container)
        for pattern, ours, layout in table:
            if match := pattern.fullmatch(bare):
                if ours is None:
                    dropped.append(key)
                else:
                    names[key] = ours.format(**match.groupdict()), layout
                break
        else:
            (unknown if inside else beside).append(key)
    if unknown:
        raise KeyError(f"{len(unknown)} keys unknown to the {naming.name} naming, first {unknown[:4]}")
    ours = [name for name, _ in names.values()]
    if len(set(ours)) < len(ours):
        twice = sorted({name for name in ours if ours.count(name) > 1})
        raise KeyError(f"two keys of the file mean {twice[0]}")
    return Renamed(naming, names, tuple(dropped), tuple(beside), container)


def export_names(names: Iterable[str], rows: tuple[Row, ...]) -> dict[str, tuple[str, Layout] | None]:
    """Our name -> (their name, layout of their tensor), or ``None`` where they have no such parameter."""
    table = _compile(tuple((row.ours, row.theirs, row.layout) for row in rows if row.ours is not None))
    exported: dict[str, tuple[str, Layout] | None] = {}
    for name in names:
        found = ((pattern.fullmatch(name), theirs, layout) for pattern, theirs, layout in table)
        exported[name] = next(
            ((theirs.format(**match.groupdict()), layout) for match, theirs, layout in found if match), None
        )
    return exported


@cache
def _compile(pairs: tuple[tuple[str, str | None, Layout], ...]) -> list[tuple]:
    return [(re.compile(_pattern(template)), target, layout) for template, target, layout in pairs]


def _pattern(template: str) -> str:
    pattern = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
    for placeholder, expression in PLACEHOLDERS.items():
        pattern = pattern.replace(placeholder, expression)
    return pattern


def _detect(keys: list[str]) -> Naming:
    for naming in NAMINGS:
        if all(any(re.fullmatch(_pattern(mark), key) for key in keys) for mark in naming.marks):
            return naming
    raise KeyError(f"no known ConvNeXt naming; first keys: {keys[:4]}")
