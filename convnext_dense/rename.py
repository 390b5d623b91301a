"""Tables that carry a checkpoint's parameter names over to ours.

A row is (pattern, replacement); a replacement of ``None`` drops the tensor by
name, because a dense backbone has no use for it. The first matching row counts,
and a key that no row knows raises.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

Row = tuple[str, str | None]


class Naming(NamedTuple):
    """How one code base names the parameters of a ConvNeXt.

    Attributes:
        name: printed in the loading report.
        signature: pattern that some key of every such checkpoint matches.
        rows: renaming table over the whole key.
        fresh: pattern over *our* names that such checkpoints never hold and
            that may stay at their initial value.
    """

    name: str
    signature: str
    rows: tuple[Row, ...]
    fresh: str | None = None


# Released code: a classifier has one final norm and a head, a dense backbone one norm an output.
_BODY: tuple[Row, ...] = (
    (r"(downsample_layers\.\d\.\d\.(?:weight|bias))", r"\1"),
    (r"(stages\.\d\.\d+\.(?:gamma|(?:dwconv|norm|pwconv1|pwconv2)\.(?:weight|bias)))", r"\1"),
)
_CLASSIFIER: tuple[Row, ...] = ((r"norm\.(?:weight|bias)", None), (r"head\.(?:weight|bias)", None))
_OUTPUT_NORMS: tuple[Row, ...] = ((r"(norm\d\.(?:weight|bias))", r"\1"),)

NAMINGS: tuple[Naming, ...] = (
    Naming("dense", r"norm\d\.weight", _BODY + _OUTPUT_NORMS),
    Naming(
        "facebook", r"downsample_layers\.0\.0\.weight", _BODY + _CLASSIFIER, fresh=r"norm\d\.(?:weight|bias)"
    ),
)


def detect_naming(keys: Iterable[str]) -> Naming:
    """The first naming whose signature some key matches.

    Raises:
        KeyError: no naming fits.
    """
    keys = list(keys)
    for naming in NAMINGS:
        if any(re.fullmatch(naming.signature, key) for key in keys):
            return naming
    raise KeyError(f"no known ConvNeXt naming; first keys: {keys[:4]}")


def rename(keys: Iterable[str], naming: Naming) -> Mapping[str, str | None]:
    """Checkpoint key -> our name, or ``None`` for what the table drops.

    Raises:
        KeyError: keys that no row of the table knows (the first few are named).
    """
    table = [(re.compile(pattern), replacement) for pattern, replacement in naming.rows]
    renamed: dict[str, str | None] = {}
    unknown = []
    for key in keys:
        for pattern, replacement in table:
            if match := pattern.fullmatch(key):
                renamed[key] = None if replacement is None else match.expand(replacement)
                break
        else:
            unknown.append(key)
    if unknown:
        raise KeyError(f"{len(unknown)} keys unknown to the {naming.name} naming, first {unknown[:4]}")
    return renamed
