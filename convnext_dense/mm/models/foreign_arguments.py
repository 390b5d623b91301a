"""Arguments of other backbones: mmpretrain's, timm's and the released ConvNeXt, ResNet and Swin.

An argument whose value asks for what our backbone does anyway is left out; any other is an error that has our
spelling.
"""

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import NamedTuple

from convnext_dense.errors import ArgumentError
from convnext_dense.mm.type_names import type_name


class Spelling(NamedTuple):
    """An argument that is not ours.

    Attributes:
        same: whether a value asks for what our backbone does anyway.
        ours: what to write instead of any other value.
    """

    same: Callable[[object], bool]
    ours: str


def _never(value: object) -> bool:
    return False


def _always(value: object) -> bool:
    return True


def _false(value: object) -> bool:
    return not value


def _layer_norm(cfg: object) -> bool:
    """Whether it is mmpretrain's LayerNorm with the released epsilon, or not given."""
    return cfg is None or (
        isinstance(cfg, Mapping) and type_name(cfg) in ("LN2d", "LN") and cfg.get("eps", 1e-6) == 1e-6
    )


def _gelu(cfg: object) -> bool:
    return cfg is None or (isinstance(cfg, Mapping) and type_name(cfg) == "GELU") or cfg == "gelu"


_ARCH = "write arch=dict(depths=[...], dims=[...]) or arch='tiny'"
_OUT = "it always returns maps: write out_indices=(0, 1, 2, 3)"
_NORM = "its norms are LayerNorms with eps=1e-6: leave it out"
SPELLINGS: dict[str, Spelling] = {
    # mmpretrain
    "gap_before_final_norm": Spelling(_false, "it returns maps, not vectors: leave it out"),
    "norm_cfg": Spelling(_layer_norm, _NORM),
    "act_cfg": Spelling(_gelu, "its activation is GELU: leave it out"),
    "linear_pw_conv": Spelling(_always, ""),
    "stem_patch_size": Spelling(lambda size: size == 4, "its stem has patches of 4 pixels: leave it out"),
    # facebookresearch and timm
    "in_chans": Spelling(_never, "write in_channels"),
    "depths": Spelling(_never, _ARCH),
    "dims": Spelling(_never, _ARCH),
    "ls_init_value": Spelling(_never, "write layer_scale_init_value"),
    "drop_path": Spelling(_never, "write drop_path_rate"),
    "drop_rate": Spelling(_false, "write drop_path_rate: it drops whole branches"),
    "features_only": Spelling(bool, _OUT),
    "num_classes": Spelling(lambda count: count in (0, None), "it has no classifier: leave it out"),
    "head_init_scale": Spelling(_always, ""),
    "model_name": Spelling(_never, "write arch, e.g. arch='tiny'"),
    "depth": Spelling(_never, _ARCH),
    "grad_checkpointing": Spelling(_false, "write with_cp=True"),
    # ResNet, and Swin
    "norm_eval": Spelling(_always, ""),  # there is no batch norm whose statistics could be frozen
    "num_stages": Spelling(lambda count: count == 4, "it has four stages: leave it out"),
    "strides": Spelling(lambda given: list(given) in ([1, 2, 2, 2], [4, 2, 2, 2]), "write output_stride=8"),
    "dilations": Spelling(lambda given: set(given) == {1}, "write output_stride=8 or 16"),
    "style": Spelling(_always, ""),
    "use_checkpoint": Spelling(_false, "write with_cp=True"),
    "contract_dilation": Spelling(_always, ""),
    "embed_dims": Spelling(_never, _ARCH),
    "convert_weights": Spelling(_always, ""),  # weights of every code base are renamed
}


def in_our_spelling(owner: str, core: Callable, arguments: Mapping) -> dict:
    """The arguments that ``core`` takes; harmless ones of other backbones are left out.

    Args:
        owner: name of the class, for messages.
        core: the function that takes the arguments.
        arguments: those of a config.

    Raises:
        ArgumentError: an argument that it does not take; our spelling or similar names are listed.
    """
    known = list(inspect.signature(core).parameters)
    ours = {}
    for key, value in arguments.items():
        if key in known:
            ours[key] = value
            continue
        spelling = SPELLINGS.get(key)
        if spelling is None:
            near = difflib.get_close_matches(key, known, n=3) or known
            raise ArgumentError(f"{owner} has no argument {key!r}; similar: {', '.join(near)}")
        try:
            same = spelling.same(value)
        except TypeError:  # a value of another kind than the argument's
            same = False
        if not same:
            raise ArgumentError(f"{owner} has no argument {key}={value!r}; {spelling.ours or 'leave it out'}")
    return ours
