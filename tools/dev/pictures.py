"""Draw the pictures of the documentation from the code: `make pictures`.

    python tools/dev/pictures.py                 # all, into docs/images
    python tools/dev/pictures.py resume upernet --out work_dirs/pictures

Figures in them are the paper's, counted, or those of docs/performance.md; nothing is measured here.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from convnext_dense.models.archs import ARCHS
from convnext_dense.models.layer_decay import DecayType, default_num_layers, layer_id, lr_scale
from convnext_dense.reports.style import BLUE, GREEN, ORANGE, PURPLE, RED, SKY, save_figure
from convnext_dense.results import paper

ROOT = Path(__file__).resolve().parents[2]
GREY, PALE = "#5a5a5a", "#eef1f5"


# ---------------------------------------------------------------- the paper's figures


FAMILIES = (("ResNet-50, ResNeXt", GREY), ("Swin", ORANGE), ("ConvNeXt", BLUE))


def bubble_chart() -> Figure:
    """Published accuracy of the recipes; the area of a circle is proportional to the MACs."""
    figure, (coco, ade) = plt.subplots(1, 2, figsize=(9, 4.6), layout="constrained")
    cascade = [row for row in paper.COCO if row.method == "Cascade Mask R-CNN"]
    _bubbles(coco, [(row.backbone, row.pretrain, row.macs_g, row.box.ap) for row in cascade])
    coco.set(title="Cascade Mask R-CNN, COCO val2017", ylabel="box AP")
    rows = [row for row in paper.ADE20K if row.miou_ms is not None]
    _bubbles(ade, [(row.backbone, row.pretrain, row.macs_g, row.miou_ms) for row in rows])
    ade.set(title="UperNet, ADE20K val", ylabel="mIoU, several scales and flip")
    figure.supxlabel("figures of the paper, not measured with this code; area: MACs", fontsize=9, color=GREY)
    return figure


def _bubbles(axes: Axes, rows: Sequence[tuple[str, str, float, float]]) -> None:
    """A column for each family and pre-training; names of figures that are close share a line."""
    columns: dict[tuple[str, int], list[tuple[str, float, float]]] = {}
    for backbone, pretrain, macs, figure in rows:
        family = next((n for n, (name, _) in enumerate(FAMILIES) if backbone.startswith(name)), 0)
        size = backbone.replace("ResNet-50", "R50") if family == 0 else backbone.split("-")[1]
        columns.setdefault((pretrain, family), []).append((size, macs, figure))
    order = sorted(columns)
    for x, key in enumerate(order):
        named: list[tuple[list[str], float]] = []
        for size, macs, figure in sorted(columns[key], key=lambda row: row[2]):
            axes.scatter(x, figure, s=macs * 0.5, color=FAMILIES[key[1]][1], alpha=0.5, linewidths=0)
            if named and figure - named[-1][1] < 0.35:
                named[-1][0].append(size)
            else:
                named.append(([size], figure))
        for sizes, figure in named:
            text = "X101" if len({name[:4] for name in sizes}) < len(sizes) else ", ".join(sizes)
            axes.annotate(text, (x + 0.36, figure), ha="left", va="center", fontsize=8)
    axes.set_xticks(
        range(len(order)), [FAMILIES[key[1]][0].replace(", ", ",\n") for key in order], fontsize=8
    )
    axes.set_xlim(-0.6, len(order) - 0.1)
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.05 * (high - low), high + 0.16 * (high - low))
    first = sum(key[0] == "1K" for key in order)
    for x, text in (
        (first / 2 - 0.5, "ImageNet-1K"),
        (first + (len(order) - first) / 2 - 0.4, "ImageNet-22K"),
    ):
        axes.text(x, axes.get_ylim()[1], text, ha="center", va="top", fontsize=9, color=GREY)
    axes.axvline(first - 0.35, color=GREY, linewidth=0.6, linestyle=":")
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


# ---------------------------------------------------------------- layer decay


def layer_decay() -> Figure:
    """Share of the learning rate of every layer of ConvNeXt-B, by the rules of both recipes."""
    figure, panels = plt.subplots(2, 1, figsize=(9, 3.9), layout="constrained")
    _strip(panels[0], "layer_wise", 0.8, "Cascade Mask R-CNN, ConvNeXt-B: layer_wise, rate 0.8")
    _strip(panels[1], "stage_wise", 0.9, "UperNet, ConvNeXt-B: stage_wise, rate 0.9")
    figure.supxlabel(
        "number: share of the learning rate in percent; narrow: stem and downsampling layers", fontsize=9,
        color=GREY,
    )  # fmt: skip
    return figure


def _strip(axes: Axes, rule: DecayType, rate: float, title: str) -> None:
    """Each layer as a box, from the image to the heads; neighbours of one group share a number."""
    depths = ARCHS["base"].depths
    names = []
    for stage, depth in enumerate(depths):
        names += [f"downsample_layers.{stage}.0.weight"]
        names += [f"stages.{stage}.{block}.gamma" for block in range(depth)]
    names.append("head")
    last = default_num_layers(depths) + 1
    groups = [layer_id(name, depths, rule) for name in names]
    x, runs = 0.0, []
    for name, group in zip(names, groups, strict=True):
        width = {"d": 0.55, "h": 4.0}.get(name[0], 1.0)
        share = lr_scale(group, last + 1, rate)
        axes.add_patch(
            Rectangle((x, 0), width, 1, facecolor=plt.cm.viridis(share), edgecolor="white", linewidth=0.4)
        )
        if runs and runs[-1][0] == group and name[0] != "d":
            runs[-1][2] = x + width
        else:
            runs.append([group, x, x + width])
        if name[0] == "d":
            axes.text(x, 1.12, f"stage {name.split('.')[1]}", fontsize=8, color=GREY)
        x += width
    axes.text(x - 4, 1.12, "neck, heads", fontsize=8, color=GREY)
    for group, begin, end in runs:
        share = lr_scale(group, last + 1, rate)
        narrow = end - begin < 0.6
        colour = GREY if narrow else "white" if share < 0.6 else "black"
        place = ((begin + end) / 2, -0.2 if narrow else 0.5)
        axes.text(*place, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set(xlim=(-0.2, x + 0.2), ylim=(-0.4, 1.4))
    axes.set_title(title, fontsize=10, loc="left")
    axes.axis("off")


# ---------------------------------------------------------------- the lean block


TENSORS = (  # of a block, in units of C numbers per position; the levels of memory that keep it
    ("block's input", 1, ("plain", "lean", "leaner")),
    ("depthwise 7x7", 1, ("plain", "lean", "leaner")),
    ("LayerNorm", 1, ("plain",)),
    ("1x1: C to 4C", 4, ("plain", "lean")),
    ("GELU", 4, ("plain",)),
    ("1x1: 4C to C", 1, ("plain",)),
)
_MIB = {
    "plain": 545,
    "lean": 288,
    "leaner": 117,
}  # docstring of ConvNeXt: tiny, one image of 512x512, float32


def lean_block() -> Figure:
    """The tensors of a block, and which of them are kept between the forward and the backward pass."""
    figure, axes = plt.subplots(figsize=(9, 3.4), layout="constrained")
    for row, memory in enumerate(("plain", "lean", "leaner")):
        y, x = -1.35 * row, 0.0
        kept = 0
        for name, size, levels in TENSORS:
            keeps = memory in levels
            kept += size * keeps
            style = {"facecolor": BLUE, "alpha": 0.85} if keeps else {"facecolor": "white", "linestyle": ":"}
            axes.add_patch(Rectangle((x, y), size, 0.8, edgecolor=GREY, **style))
            colour = "white" if keeps else GREY
            axes.text(x + size / 2, y + 0.4, f"{size}C", ha="center", va="center", color=colour, fontsize=9)
            if row == 0:
                axes.text(x + size / 2, 1.0, name, ha="left", va="bottom", rotation=28, fontsize=9)
            x += size + 0.25
        axes.text(-0.3, y + 0.4, memory, ha="right", va="center", fontsize=11, family="monospace")
        text = f"keeps {kept}C\nConvNeXt-T: {_MIB[memory]} MiB"
        axes.text(x + 0.1, y + 0.4, text, ha="left", va="center", fontsize=9)
    axes.set(xlim=(-2.2, 18.2), ylim=(-3.4, 2.6))
    axes.text(
        -0.3, -3.25, "Filled: kept for the backward pass. Dotted: computed again when needed, or not needed."
        "  MiB: one image of 512x512, float32.", fontsize=8.5, color=GREY,
    )  # fmt: skip
    axes.axis("off")
    return figure


# ---------------------------------------------------------------- resume


def resume() -> Figure:
    """What happens between a kill and the first step of the resumed run."""
    figure, axes = plt.subplots(figsize=(9, 4.2), layout="constrained")
    _box(axes, 0, 3, "training\nstep 1, 2, ...", SKY)
    _box(axes, 3, 3, "every 30 minutes:\nrecent.pth", SKY)
    _box(axes, 6, 4.2, "SIGTERM, Ctrl-C:\nthe step ends,\nrecent.pth is written", ORANGE)
    _box(axes, 6, 1.8, "SIGKILL, power loss:\nsteps since the last\ncheckpoint are lost", RED)
    _box(axes, 9, 3, "train.py --resume", GREEN)
    _box(axes, 9, 0, "newest file whose\ntensors have the\nright checksum", GREEN)
    _box(axes, 6, 0, "weights, optimizer,\nschedules, average", GREEN)
    _box(axes, 3, 0, "images already seen\nare skipped by index", GREEN)
    _box(axes, 0, 0, "random numbers from\n(seed, step): the same\nbits as without a stop", PURPLE)
    arrows = (
        ((2.3, 3.5), (3, 3.5)), ((5.3, 3.6), (6, 4.6)), ((5.3, 3.4), (6, 2.4)), ((8.3, 4.6), (9, 3.7)),
        ((8.3, 2.4), (9, 3.3)), ((10.15, 3), (10.15, 1.1)), ((9, 0.5), (8.3, 0.5)), ((6, 0.5), (5.3, 0.5)),
        ((3, 0.5), (2.3, 0.5)),
    )  # fmt: skip
    for begin, end in arrows:
        axes.add_patch(FancyArrowPatch(begin, end, arrowstyle="-|>", mutation_scale=12, color=GREY))
    axes.set(xlim=(-0.2, 11.6), ylim=(-0.3, 5.5))
    axes.axis("off")
    return figure


def _box(
    axes: Axes, x: float, y: float, text: str, colour: str, wh: tuple[float, float] = (2.3, 1.05)
) -> None:
    corners = "round,pad=0,rounding_size=0.1"
    axes.add_patch(FancyBboxPatch((x, y), *wh, boxstyle=corners, color=colour, alpha=0.22))
    axes.text(x + wh[0] / 2, y + wh[1] / 2, text, ha="center", va="center", fontsize=8.5)


# ---------------------------------------------------------------- UperNet


def upernet() -> Figure:
    """UPerHead's largest convolution, as mmseg computes it and as this package does."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    before, after = panels
    before.set_title("mmseg: resize, then convolve", fontsize=11)
    after.set_title("here: convolve, then resize", fontsize=11)
    sides = (1.0, 0.62, 0.38, 0.24)  # drawn, not to scale
    strides = (4, 8, 16, 32)
    for row, (side, stride) in enumerate(zip(sides, strides, strict=True)):
        y = 3.6 - 1.2 * row
        for axes in panels:
            _map(axes, 0, y, side, BLUE)
            axes.text(-0.75, y, f"stride {stride}", ha="right", va="center", fontsize=8, color=GREY)
        _arrow(before, (0.6, y), (1.5, y), "resize" if row else "")
        _map(before, 2.1, y, 1.0, ORANGE)
        _arrow(before, (2.7, y), (3.6, 1.9 + 0.12 * (1.5 - row)), "")
        _arrow(after, (0.6, y), (1.5, y), "3x3")
        _map(after, 2.1, y, side, GREEN)
        _arrow(after, (2.7, y), (3.6, 1.9 + 0.12 * (1.5 - row)), "")
    _box(before, 3.65, 1.4, "concatenate,\n3x3: 155 GMACs", ORANGE, (1.9, 1.0))
    _box(after, 3.65, 1.4, "resize, add:\n57 GMACs in all", GREEN, (1.9, 1.0))
    for axes in panels:
        axes.set(xlim=(-1.9, 5.8), ylim=(-0.5, 4.3), aspect="equal")
        axes.axis("off")
    figure.supxlabel(
        "UperNet, ConvNeXt-T, 512x512. The results are equal up to rounding; blue: maps of the pyramid",
        fontsize=9, color=GREY,
    )  # fmt: skip
    return figure


def _map(axes: Axes, x: float, y: float, side: float, colour: str) -> None:
    axes.add_patch(
        Rectangle((x - side / 2, y - side / 2), side, side, facecolor=colour, alpha=0.5, edgecolor=colour)
    )


def _arrow(axes: Axes, begin: tuple[float, float], end: tuple[float, float], text: str) -> None:
    axes.add_patch(FancyArrowPatch(begin, end, arrowstyle="-|>", mutation_scale=10, color=GREY))
    axes.text(
        (begin[0] + end[0]) / 2, (begin[1] + end[1]) / 2 + 0.14, text, ha="center", fontsize=8, color=GREY
    )


# ---------------------------------------------------------------- command line


PICTURES = {
    "bubble_chart": bubble_chart,
    "layer_decay": layer_decay,
    "lean_block": lean_block,
    "resume": resume,
    "upernet": upernet,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(PICTURES)}")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images", help="folder to write into")
    args = parser.parse_args()
    if unknown := sorted(set(args.names) - PICTURES.keys()):
        parser.error(f"no pictures {unknown}; there are {', '.join(PICTURES)}")
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names or PICTURES:
        figure = PICTURES[name]()
        save_figure(figure, args.out / f"{name}.svg")
        plt.close(figure)
        print(args.out / f"{name}.svg")


if __name__ == "__main__":
    main()
