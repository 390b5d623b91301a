"""One self-contained HTML page about a run: no scripts, and no external fonts or pictures."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from convnext_dense.evaluation.detection_errors import confusion, read_scenes
from convnext_dense.evaluation.folder import Evaluation
from convnext_dense.reports.charts import NOTHING, draw_classes, draw_confusion, draw_precision_recall
from convnext_dense.reports.curves import Log, draw_curves
from convnext_dense.reports.gallery import Card, best_and_worst, class_colours
from convnext_dense.reports.style import figure_bytes
from convnext_dense.results.records import Difference, compare

_MAIN = ("box AP", "mask AP", "mIoU", "aAcc")  # shown large
_VERDICTS = {
    True: dict(mark="good", text="inside the tolerance"),
    False: dict(mark="bad", text="outside the tolerance"),
    None: "",
}


class Group(NamedTuple):
    """One learning-rate group of the optimizer."""

    layer: str
    tensors: int
    params: int
    lr: float
    lr_end: float
    weight_decay: float
    contents: str


class RunReport(NamedTuple):
    """Content of the page; for a part that is empty or ``None``, a line says that it is missing.

    Attributes:
        title: the run's name.
        recipe: (name, value) lines.
        config: text of the config.
        groups: learning-rate groups.
        log: training curves.
        evaluation: test of the checkpoint.
        environment: (name, value) lines.
        notes: missing parts, and why.
    """

    title: str
    recipe: Sequence[tuple[str, str]]
    config: str
    groups: Sequence[Group]
    log: Log | None
    evaluation: Evaluation | None
    environment: Sequence[tuple[str, str]]
    notes: Sequence[str] = ()


def build_page(report: RunReport, pictures: int = 12) -> str:
    """Build the page, with the ``pictures`` best and as many worst predictions."""
    environment = Environment(
        loader=PackageLoader("convnext_dense.reports", ""), autoescape=True, undefined=StrictUndefined
    )
    evaluation = report.evaluation
    return environment.get_template("page.html.jinja").render(
        title=report.title,
        headline=_headline(evaluation) if evaluation else None,
        notes=report.notes,
        recipe=report.recipe,
        config=report.config,
        groups=[_group_cells(group) for group in report.groups],
        curves=_chart(draw_curves({"run": report.log}), "training curves", True) if report.log else None,
        figures=_figures(evaluation) if evaluation else None,
        classes=_classes(evaluation) if evaluation else None,
        predictions=_predictions(evaluation, pictures) if evaluation else None,
        environment=report.environment,
    )


# -------------------------------------------------------------------------------------------- sections


def _headline(evaluation: Evaluation) -> str:
    record = evaluation.record
    tested = "several scales and flip" if record["tta"] else "one scale"
    return f"{record['checkpoint']['name']} on {record['dataset']['name']}, {tested}"


def _group_cells(group: Group) -> tuple[str, ...]:
    """Cells of one line of the learning-rate groups."""
    rates = (f"{group.lr:.3g}", f"{group.lr_end:.3g}", f"{group.weight_decay:g}")
    return (group.layer, str(group.tensors), f"{group.params:,}", *rates, group.contents)


def _figures(evaluation: Evaluation) -> dict:
    record = evaluation.record
    lines = compare(record)
    row, full = record.get("row"), record["dataset"]["full"]
    if not full:
        note = f"{record['dataset']['name']}: not the paper's val set, so nothing is compared with the paper."
    elif row:
        note = f"Compared with the row {row} of the paper."
    else:
        note = "The config is not a row of the paper's tables."
    main = [dict(name=line.metric, value=f"{line.measured:.1f}") for line in lines if line.metric in _MAIN]
    head, rows = _comparison(lines)
    return dict(main=main, full=full, note=note, head=head, rows=rows)


def _comparison(lines: Sequence[Difference]) -> tuple[Sequence[str], Sequence[Sequence]]:
    """Head and rows of the figures; with the paper's columns if anything is compared."""
    if all(line.paper is None for line in lines):
        return ("", "measured, %"), [(line.metric, f"{line.measured:.2f}") for line in lines]
    rows = [
        (
            line.metric,
            f"{line.measured:.2f}",
            "" if line.paper is None else f"{line.paper:.1f}",
            "" if line.difference is None else f"{line.difference:+.2f}",
            _VERDICTS[line.inside],
        )
        for line in lines
    ]
    return ("", "measured, %", "paper", "difference", ""), rows


def _classes(evaluation: Evaluation) -> dict | None:
    """Bars, table and further charts; ``None`` if no class occurs."""
    main = "box AP" if evaluation.task == "detection" else "IoU"
    known = [figures for figures in evaluation.per_class.values() if figures.get(main) is not None]
    if not known:
        return None
    columns = list(known[0])
    charts = []
    names: Sequence[str]
    if evaluation.task == "detection":
        charts.append(_chart(draw_precision_recall(evaluation.precisions()), "precision over recall", True))
        scenes = read_scenes(evaluation.annotations, evaluation.detections(), evaluation.classes)
        names, counts = [*evaluation.classes, NOTHING], confusion(scenes)
        unit = "objects (detections from score 0.3, IoU 0.5)"
    else:
        names, counts, unit = evaluation.classes, evaluation.arrays["confusion"], "pixels"
    charts.append(_chart(draw_confusion(counts, names, unit), "what is taken for what", len(names) > 8))
    return dict(
        bars=_chart(draw_classes(evaluation.per_class, main), f"{main} of each class", False),
        head=("class", *columns),
        rows=[
            (name, *("" if figures.get(c) is None else f"{figures[c]:.1f}" for c in columns))
            for name, figures in evaluation.per_class.items()
        ],
        charts=charts,
    )


def _predictions(evaluation: Evaluation, count: int) -> dict | None:
    """The best and the worst predictions; ``None`` if no image has anything to find."""
    best, worst = best_and_worst(evaluation, count)
    if not best:
        return None
    if evaluation.task == "detection":
        order = "Left: ground truth. Right: detections with a score from 0.3. Ranked by panoptic quality."
    else:
        order = "Ground truth, prediction, and the wrong pixels. Ranked by the image's mean IoU."
    colours = class_colours(len(evaluation.classes))
    seen = [i for i, name in enumerate(evaluation.classes) if _occurs(evaluation.per_class.get(name, {}))]
    swatches = [dict(colour=f"rgb{colours[i]}", name=evaluation.classes[i]) for i in seen[:40]]
    return dict(order=order, swatches=swatches, best=[*map(_card, best)], worst=[*map(_card, worst)])


def _occurs(figures: Mapping[str, float | None]) -> bool:
    return any(value is not None for value in figures.values())


# -------------------------------------------------------------------------------------------- pictures


def _card(card: Card) -> dict:
    text = f"{card.name}: {card.quality:.0f}%"
    return dict(source=_data_url("jpeg", encode_jpeg(card.picture)), text=text)


def _chart(figure: Figure, alt: str, scroll: bool) -> dict:
    """A figure as PNG; ``scroll`` keeps a wide one readable on a phone."""
    width = round(figure.get_figwidth() * 100)
    source = _data_url("png", figure_bytes(figure, "png", dpi=130))
    return dict(source=source, alt=alt, width=width, scroll=scroll)


def _data_url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def encode_jpeg(picture: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB -> JPEG."""
    done, data = cv2.imencode(
        ".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 82]
    )
    assert done
    return data.tobytes()
