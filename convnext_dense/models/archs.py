"""Sizes of the ConvNeXt family as frozen rows.

``tiny`` to ``xlarge``: Liu et al., CVPR 2022, section 3. ``atto`` to ``nano`` and
``huge``: Woo et al., CVPR 2023, appendix (the four small ones are timm's for V1).
The isotropic rows: Liu et al., section 3.3 and Table 2.
"""

from collections.abc import Mapping
from typing import NamedTuple

from convnext_dense.errors import ArgumentError


class Arch(NamedTuple):
    """Blocks and channels of the four stages."""

    depths: tuple[int, ...]
    dims: tuple[int, ...]


ARCHS: dict[str, Arch] = {
    "atto": Arch((2, 2, 6, 2), (40, 80, 160, 320)),
    "femto": Arch((2, 2, 6, 2), (48, 96, 192, 384)),
    "pico": Arch((2, 2, 6, 2), (64, 128, 256, 512)),
    "nano": Arch((2, 2, 8, 2), (80, 160, 320, 640)),
    "tiny": Arch((3, 3, 9, 3), (96, 192, 384, 768)),
    "small": Arch((3, 3, 27, 3), (96, 192, 384, 768)),
    "base": Arch((3, 3, 27, 3), (128, 256, 512, 1024)),
    "large": Arch((3, 3, 27, 3), (192, 384, 768, 1536)),
    "xlarge": Arch((3, 3, 27, 3), (256, 512, 1024, 2048)),
    "huge": Arch((3, 3, 27, 3), (352, 704, 1408, 2816)),
}

ISOTROPIC_ARCHS: dict[str, Arch] = {
    "isotropic_small": Arch((18,), (384,)),
    "isotropic_base": Arch((18,), (768,)),
    "isotropic_large": Arch((36,), (1024,)),
}


def resolve_arch(arch: str | Mapping, archs: Mapping[str, Arch] = ARCHS) -> Arch:
    """Name or ``dict(depths=..., dims=...)`` -> the row it stands for.

    Args:
        arch: the user's value.
        archs: the named rows; a mapping needs as many depths and dims as these have stages.

    Raises:
        ValueError: an unknown name, or a mapping that is not one positive
            integer per stage for depths and for dims.
    """
    known = f"use one of {tuple(archs)} or dict(depths=..., dims=...)"
    if isinstance(arch, str):
        if arch not in archs:
            raise ArgumentError(f"arch={arch!r}; {known}")
        return archs[arch]
    if not isinstance(arch, Mapping) or set(arch) != {"depths", "dims"}:
        raise ArgumentError(f"arch={arch!r}; {known}")
    stages = len(next(iter(archs.values())).depths)
    for key, values in arch.items():
        listed = isinstance(values, list | tuple) and len(values) == stages
        if not listed or not all(isinstance(v, int) and v > 0 for v in values):
            raise ArgumentError(f"arch {key}={values}; {stages} positive integers are needed, one per stage")
    return Arch(tuple(arch["depths"]), tuple(arch["dims"]))
