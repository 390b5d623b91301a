"""Environments of toolboxes as plain values: the official line, the fork, and anything between."""

from pathlib import Path

from convnext_dense.toolboxes import DISTRIBUTIONS, Distribution, Toolbox

OFFICIAL = ["mmengine 0.10.7", "mmcv-lite 2.1.0", "mmdet 3.3.0", "mmsegmentation 1.2.2"]
ONEDL = [
    "onedl-mmengine 0.10.12",
    "onedl-mmcv 2.3.6",
    "onedl-mmdetection 3.5.1",
    "onedl-mmsegmentation 1.4.2",
]
MODULE = {name: module for module, names in DISTRIBUTIONS.items() for name in names}


def environment(*distributions: str, compiled: bool = False) -> dict[str, Toolbox]:
    """The toolboxes of an environment with these distributions, such as ``mmdet 3.3.0``."""
    owners: dict[str, list[Distribution]] = {module: [] for module in DISTRIBUTIONS}
    for distribution in distributions:
        name, version = distribution.split()
        module = MODULE[name]
        owners[module].append(Distribution(name, version, DISTRIBUTIONS[module][name]))
    boxes = {}
    for module, found in owners.items():
        found.sort(key=lambda owner: [*MODULE].index(owner.name))
        version = found[0].version if found else None
        folder = Path("/site", module) if found else None
        boxes[module] = Toolbox(module, tuple(found), folder, version, False, compiled and module == "mmcv")
    return boxes
