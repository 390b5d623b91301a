"""The model tables of README.md and docs/models.md, as Markdown, from the paper's figures and the records."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from convnext_dense.recipes import list_configs
from convnext_dense.results import paper
from convnext_dense.results.records import Difference, compare
from convnext_dense.support.text_tables import markdown, replace_between

BEGIN = "<!-- models: begin (written by make tables) -->"
END = "<!-- models: end -->"
NOT_YET = "not yet measured"
SHOWN = ("box AP", "mask AP", "mIoU")
"""The figures that are shown for a record."""


def readme_section(records: Sequence[Mapping]) -> str:
    """ConvNeXt's rows of COCO and ADE20K."""
    coco = [row for row in paper.COCO if row.backbone.startswith("ConvNeXt")]
    ade20k = [row for row in paper.ADE20K if row.backbone.startswith("ConvNeXt")]
    return "\n".join(
        [
            "AP and mIoU as published; the last column is what `tools/benchmark.py accuracy` measured here.",
            "[docs/models.md](docs/models.md) has every row, baselines and ImageNet included.",
            "",
            coco_table(coco, records, "configs"),
            ade20k_table(ade20k, records, "configs"),
        ]
    )


def models_page(records: Sequence[Mapping]) -> str:
    """Every row of the papers' tables, then the recipes without a row, then measurements on other data."""
    parts = [
        "# Models",
        "<!-- written by `make tables` from convnext_dense/results/paper.py and results/; do not edit -->",
        "AP, mIoU, top-1, MACs and frames per second (one A100, batch 1) are *published*; so are the",
        "parameters, in millions. The column *here* is what `tools/benchmark.py accuracy ROW` measured",
        "with this toolkit on the whole val set, with the difference from the paper; **bold** is outside the",
        "tolerance of 0.2 AP or 0.3 mIoU. MACs are in 1e9: at 1280x800 for detection, at crop x 4 crop for",
        "segmentation.",
        "",
        "## COCO: Mask R-CNN and Cascade Mask R-CNN, 3x",
        coco_table(paper.COCO, records, "../configs"),
        "## ADE20K: UperNet, 160k",
        ade20k_table(paper.ADE20K, records, "../configs"),
        "## ConvNeXt V2",
        "Published with other data augmentation and tests than above; no such model was released.",
        "",
        coco_table(paper.COCO_V2, records, "../configs"),
        ade20k_table(paper.ADE20K_V2, records, "../configs"),
        "## ImageNet-1K",
        imagenet_table([*paper.IMAGENET, *paper.ISOTROPIC]),
        "## Recipes without a published figure",
        own_table(records, "../configs"),
    ]
    partial = [record for record in records if not record["dataset"]["full"]]
    if partial:
        parts += [
            "## Measured on other data",
            "Not comparable with any figure above.",
            "",
            partial_table(partial),
        ]
    return "\n".join(parts).rstrip("\n") + "\n"


# --------------------------------------------------------------------------------------------- tables


def coco_table(rows: Iterable[paper.CocoRow], records: Sequence[Mapping], configs: str) -> str:
    """One line per row; ``configs`` is the path to the folder of the recipes."""
    head = (
        "method",
        "backbone",
        "pretrained",
        "box AP",
        "mask AP",
        "here: box, mask",
        "params",
        "MACs",
        "FPS",
        "files",
    )
    lines = [
        (
            row.method,
            row.backbone,
            row.pretrain,
            _number(row.box.ap),
            _number(row.mask.ap),
            measured(row.name, records, tta=False),
            _number(row.params_m, 0),
            _number(row.macs_g, 0),
            _number(row.fps),
            files(row.name, configs),
        )
        for row in rows
    ]
    return markdown([head, *lines], "lllrrlrrrl")


def ade20k_table(rows: Iterable[paper.Ade20kRow], records: Sequence[Mapping], configs: str) -> str:
    """One line per row; ``ms`` is several scales and flip."""
    head = (
        "backbone", "pretrained", "crop", "mIoU", "mIoU ms", "here", "here ms", "params", "MACs", "files"
    )  # fmt: skip
    lines = [
        (
            row.backbone,
            row.pretrain,
            str(row.crop),
            _number(row.miou),
            _number(row.miou_ms),
            measured(row.name, records, tta=False),
            measured(row.name, records, tta=True),
            _number(row.params_m, 0),
            _number(row.macs_g, 0),
            files(row.name, configs),
        )
        for row in rows
    ]
    return markdown([head, *lines], "llrrrllrrl")


def imagenet_table(rows: Iterable[paper.ImageNetRow | paper.IsotropicRow]) -> str:
    """Classifiers: the weights that detectors and segmentors start from."""
    head = ("model", "pretrained", "pixels", "top-1", "params", "MACs", "from", "weights")
    lines = [
        (
            row.model,
            getattr(row, "pretrain", "1K"),
            str(row.size),
            _number(row.top1),
            _number(row.params_m, 0),
            _number(row.macs_g),
            row.table,
            files(row.name, ""),
        )
        for row in rows
    ]
    return markdown([head, *lines], "llrrrrl")


def own_table(records: Sequence[Mapping], configs: str) -> str:
    """Recipes that are not a row of a table, with measurements on the whole val set."""
    names = [name for name in list_configs() if name not in paper.ROWS and not name.startswith("demo/")]
    lines = [(f"`{name}`", measured(name, records, tta=False), files(name, configs)) for name in names]
    return markdown([("recipe", "here", "files"), *lines])


def partial_table(records: Sequence[Mapping]) -> str:
    """Measurements on data that is not a whole val set of the paper."""
    lines = []
    for record in records:
        figures = ", ".join(
            f"{name} {record['metrics'][name]:.1f}" for name in SHOWN if name in record["metrics"]
        )
        tested = "several scales and flip" if record["tta"] else "one scale"
        line = (
            f"`{record['config']}`",
            record["checkpoint"]["name"],
            record["dataset"]["name"],
            tested,
            figures,
        )
        lines.append(line)
    return markdown([("config", "checkpoint", "data", "test", "figures"), *lines])


def measured(name: str, records: Iterable[Mapping], tta: bool) -> str:
    """The figures of a recipe's newest record on the whole val set, or a note that there is none."""
    found = None
    for record in records:
        if (
            record["dataset"]["full"]
            and record["tta"] == tta
            and name in (record.get("row"), record["config"])
        ):
            found = record
    if found is None:
        return NOT_YET
    shown = [line for line in compare(found) if line.metric in SHOWN]
    return f"{' / '.join(map(_figure, shown))}, measured here {found['time'][:10]}"


def _figure(line: Difference) -> str:
    text = f"{line.measured:.1f}"
    if line.difference is not None:
        text += f" ({line.difference:+.1f})"
    return f"**{text}**" if line.inside is False else text


def files(name: str, configs: str) -> str:
    """Links to a row's config and released weights; files that do not exist are left out."""
    links = []
    if name in list_configs():
        links.append(f"[config]({configs}/{name}.py)")
    if name in paper.WEIGHTS:
        links.append(f"[weights]({paper.WEIGHTS[name]})")
    return " ".join(links)


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


# ---------------------------------------------------------------------------------------------- files


def generated(root: Path, records: Sequence[Mapping]) -> dict[Path, str]:
    """The files below ``root`` that hold model tables, with their expected text.

    Raises:
        ValueError: the README has no place for its table.
    """
    readme = root / "README.md"
    return {
        readme: replace_between(readme.read_text(), BEGIN, END, readme_section(records)),
        root / "docs" / "models.md": models_page(records),
    }
