"""Sizes of the ConvNeXt family as frozen rows (Liu et al., CVPR 2022, section 3)."""

from collections.abc import Mapping
from typing import NamedTuple


class Arch(NamedTuple):
    """Blocks and channels of the four stages."""

    depths: tuple[int, ...]
    dims: tuple[int, ...]


ARCHS: dict[str, Arch] = {
    "tiny": Arch((3, 3, 9, 3), (96, 192, 384, 768)),
    "small": Arch((3, 3, 27, 3), (96, 192, 384, 768)),
    "base": Arch((3, 3, 27, 3), (128, 256, 512, 1024)),
    "large": Arch((3, 3, 27, 3), (192, 384, 768, 1536)),
    "xlarge": Arch((3, 3, 27, 3), (256, 512, 1024, 2048)),
}


def resolve_arch(arch: str | Mapping) -> Arch:
    """Name or ``dict(depths=..., dims=...)`` -> the row it stands for.

    Raises:
        ValueError: an unknown name, or a mapping that is not four positive
            depths and four positive dims.
    """
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ValueError(f"arch={arch!r}; use one of {tuple(ARCHS)} or dict(depths=..., dims=...)")
        return ARCHS[arch]
    if not isinstance(arch, Mapping) or set(arch) != {"depths", "dims"}:
        raise ValueError(f"arch={arch!r}; use a name of {tuple(ARCHS)} or dict(depths=..., dims=...)")
    row = Arch(tuple(arch["depths"]), tuple(arch["dims"]))
    for key, values in row._asdict().items():
        if len(values) != 4 or not all(isinstance(v, int) and v > 0 for v in values):
            raise ValueError(f"arch {key}={values}; four positive integers are needed, one a stage")
    return row
