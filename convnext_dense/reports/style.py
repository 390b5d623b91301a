"""What all pictures share: colours, dashes, and how a figure becomes a file."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from convnext_dense.support.files import replacing

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442")
"""Okabe and Ito's palette, for colour-blind readers too; it repeats for further classes."""

BLUE, ORANGE, GREEN, PURPLE, RED, SKY, _ = COLOURS
DASHES = ("-", "--", ":", "-.")


def save_figure(figure: Figure, path: str | Path, dpi: float | None = None) -> None:
    """Write ``figure`` atomically; the suffix of ``path`` chooses the format, PNG if there is none.

    Args:
        figure: the figure.
        path: file to write.
        dpi: dots per inch, by default the figure's own.
    """
    path = Path(path) if Path(path).suffix else Path(f"{path}.png")
    content = figure_bytes(figure, path.suffix.removeprefix("."), dpi)
    with replacing(path) as partial:
        partial.write_bytes(content)


def figure_bytes(figure: Figure, kind: str, dpi: float | None = None) -> bytes:
    """``figure`` as the content of a file of a format such as ``png``.

    Without dates and random ids, so that the same records give the same file.
    """
    dated = {"svg": "Date", "pdf": "CreationDate"}.get(kind)
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "convnext_dense"}):
        figure.savefig(
            buffer,
            facecolor="white",
            format=kind,
            metadata={dated: None} if dated else None,
            dpi="figure" if dpi is None else dpi,
        )
    return buffer.getvalue()
