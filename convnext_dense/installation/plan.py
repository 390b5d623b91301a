"""Which mmcv to compile: a decision from what is installed."""

from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from convnext_dense.errors import InstallationError
from convnext_dense.installation.wheel import Source
from convnext_dense.toolboxes import Toolbox, line_of, mixture

OFFICIAL = Source("mmcv", "2.1.0")  # the newest that mmdet 3.3 and mmseg 1.2 accept
ONEDL = Source("onedl-mmcv", "2.3.6")


def source_to_compile(boxes: Mapping[str, Toolbox]) -> Source:
    """The mmcv of the installed line; the official one where there is nothing of either.

    Raises:
        InstallationError: toolboxes of both lines, or an mmcv that pip cannot replace.
    """
    mmcv = boxes["mmcv"]
    if len({owner.line for owner in mmcv.owners}) == 1:
        # mmcv and mmcv-lite over each other: both are removed, which is the remedy
        boxes = {**boxes, "mmcv": replace(mmcv, owners=mmcv.owners[:1])}
    if found := mixture(boxes):
        raise InstallationError(f"{found.text}; first: {found.remedy}")
    if mmcv.checkout or any(not _in_place(owner.name, mmcv.folder) for owner in mmcv.owners):
        raise InstallationError(
            f"mmcv is your own checkout, {mmcv.folder}; compile it there: "
            f"MMCV_WITH_OPS=1 pip install --no-build-isolation -e {mmcv.folder and mmcv.folder.parent}"
        )
    if line_of(boxes) != "onedl":
        return OFFICIAL
    return Source(ONEDL.distribution, mmcv.version or ONEDL.version)


def _in_place(name: str, folder: Path | None) -> bool:
    """Whether a distribution's files lie where pip puts them, or nowhere; an editable one's do not."""
    return folder is None or Path(str(metadata.distribution(name).locate_file("mmcv"))).resolve() == folder
