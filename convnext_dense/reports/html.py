"""One page of HTML about a run, with everything inside: no script, no font, no picture from elsewhere."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from matplotlib.figure import Figure

from convnext_dense.evaluation.detection_errors import confusion, read_scenes
from convnext_dense.evaluation.folder import Evaluation
from convnext_dense.reports.charts import NOTHING, draw_classes, draw_confusion, draw_precision_recall
from convnext_dense.reports.curves import Log, draw_curves
from convnext_dense.reports.gallery import Card, best_and_worst, class_colours
from convnext_dense.results.records import Difference, compare

STYLE = """
:root { color-scheme: light; --ink: #1a1a1a; --soft: #5c5c5c; --line: #d9d9d9;
  --back: #f6f6f4; --mark: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif;
  color: var(--ink); background: #fff; }
main { max-width: 1200px; margin: 0 auto; padding: 0 20px 60px; }
header { background: var(--back); border-bottom: 1px solid var(--line); padding: 24px 20px 18px; }
header > div { max-width: 1160px; margin: 0 auto; }
h1 { font-size: 1.6rem; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 40px 0 10px; padding-bottom: 4px; border-bottom: 2px solid var(--line); }
h3 { font-size: 1rem; margin: 22px 0 6px; }
p { margin: 6px 0; } .soft { color: var(--soft); font-size: 0.9rem; }
nav { margin-top: 10px; } nav a { margin-right: 14px; color: var(--mark); white-space: nowrap; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; margin: 8px 0; }
th, td { padding: 4px 12px 4px 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.path { overflow-wrap: anywhere; min-width: 12em; } .wide td:last-child:not(.n) { min-width: 14em; }
figure { margin: 12px 0; } figure.chart img { max-width: 100%; height: auto; }
figcaption { font-size: 0.85rem; color: var(--soft); overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); gap: 14px; }
.cards figure { margin: 0; }
.cards img { width: 100%; height: auto; display: block; border: 1px solid var(--line); }
.legend span { display: inline-block; margin: 0 14px 4px 0; font-size: 0.85rem; white-space: nowrap; }
.legend i { display: inline-block; width: 14px; height: 14px; margin-right: 5px; vertical-align: -2px; }
.big { display: flex; flex-wrap: wrap; gap: 10px 32px; margin: 12px 0; }
.big div { min-width: 100px; } .big b { display: block; font-size: 1.7rem; line-height: 1.2; }
.warn { border-left: 4px solid #e69f00; background: #fdf6e6; padding: 6px 12px; }
.good { color: #00684c; } .bad { color: #a63c00; font-weight: 600; }
details summary { cursor: pointer; color: var(--mark); margin: 10px 0; }
pre { background: var(--back); padding: 10px; overflow-x: auto; font-size: 0.8rem; }
@media (max-width: 600px) { main { padding: 0 12px 40px; } h1 { font-size: 1.3rem; }
  header { padding: 16px 12px; }
  figure.chart.scroll { overflow-x: auto; } figure.chart.scroll img { max-width: none; width: 760px; } }
@media print { nav { display: none; } .cards figure, figure.chart { break-inside: avoid; } }
"""


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
    """What the page shows; what is empty or ``None`` is left out with a line that says so.

    Attributes:
        title: the run's name.
        recipe: (what, value) lines.
        config: text of the config.
        groups: learning-rate groups.
        log: training curves.
        evaluation: test of the checkpoint.
        environment: (what, value) lines.
        notes: what could not be had, and why.
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
    """The page; ``pictures`` best and as many worst predictions."""
    sections = [
        ("recipe", "Recipe", _recipe(report)),
        ("rates", "Learning-rate groups", _groups(report.groups)),
        ("curves", "Curves", _curves(report.log)),
        ("figures", "Figures", _figures(report.evaluation)),
        ("classes", "Classes", _classes(report.evaluation)),
        ("predictions", "Predictions", _predictions(report.evaluation, pictures)),
        ("environment", "Environment", _pairs(report.environment)),
    ]
    links = " ".join(f'<a href="#{name}">{title}</a>' for name, title, _ in sections)
    notes = "".join(f'<p class="warn">{_text(note)}</p>' for note in report.notes)
    body = "".join(
        f'<section id="{name}"><h2>{title}</h2>{content}</section>' for name, title, content in sections
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(report.title)}</title><style>{STYLE}</style></head>\n"
        f"<body><header><div><h1>{_text(report.title)}</h1>{_headline(report.evaluation)}<nav>{links}</nav></div>"
        f"</header>\n<main>{notes}{body}</main></body></html>\n"
    )


# -------------------------------------------------------------------------------------------- sections


def _headline(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return ""
    record = evaluation.record
    tested = "several scales and flip" if record["tta"] else "one scale"
    line = f"{record['checkpoint']['name']} on {record['dataset']['name']}, {tested}"
    return f'<p class="soft">{_text(line)}</p>'


def _recipe(report: RunReport) -> str:
    config = f"<details><summary>the whole config</summary><pre>{_text(report.config)}</pre></details>"
    return _pairs(report.recipe) + (config if report.config else "")


def _groups(groups: Sequence[Group]) -> str:
    if not groups:
        return _absent("The groups could not be told from the config.")
    head = ("layer", "tensors", "parameters", "rate", "at the end", "weight decay", "what is in it")
    rows = [
        (
            g.layer,
            str(g.tensors),
            f"{g.params:,}",
            f"{g.lr:.3g}",
            f"{g.lr_end:.3g}",
            f"{g.weight_decay:g}",
            g.contents,
        )
        for g in groups
    ]
    return _table(head, rows, numbers=range(1, 6))


def _curves(log: Log | None) -> str:
    return (
        _chart(draw_curves({"run": log}), "training curves", True) if log else _absent("Nothing was logged.")
    )


def _figures(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return _absent("No checkpoint was tested.")
    record = evaluation.record
    lines = compare(record)
    main = ("box AP", "mask AP", "mIoU", "aAcc")
    big = "".join(
        f"<div><b>{line.measured:.1f}</b>{line.metric}</div>" for line in lines if line.metric in main
    )
    if record["dataset"]["full"]:
        row = record.get("row")
        note = (
            f"Compared with the row {row} of the paper."
            if row
            else "The config is no row of the paper's tables."
        )
        text = f'<p class="soft">{_text(note)}</p>'
    else:
        text = (
            f'<p class="warn">{_text(record["dataset"]["name"])}: not the paper\'s val set, '
            "so nothing is compared with the paper.</p>"
        )
    return f'<div class="big">{big}</div>{text}{_comparison(lines)}'


def _comparison(lines: Sequence[Difference]) -> str:
    """Table of figures; the paper's columns are there where anything is compared."""
    verdicts = {
        True: Raw('<span class="good">inside the tolerance</span>'),
        False: Raw('<span class="bad">outside the tolerance</span>'),
        None: "",
    }
    if all(line.paper is None for line in lines):
        return _table(("", "measured, %"), [(line.metric, f"{line.measured:.2f}") for line in lines], (1,))
    rows = [
        (
            line.metric,
            f"{line.measured:.2f}",
            "" if line.paper is None else f"{line.paper:.1f}",
            "" if line.difference is None else f"{line.difference:+.2f}",
            verdicts[line.inside],
        )
        for line in lines
    ]
    return _table(("", "measured, %", "paper", "difference", ""), rows, numbers=(1, 2, 3))


def _classes(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return _absent("No checkpoint was tested.")
    head = ("box AP", "mask AP") if evaluation.task == "detection" else ("IoU",)
    known = {
        name: figures for name, figures in evaluation.per_class.items() if figures.get(head[0]) is not None
    }
    if not known:
        return _absent("No class occurs in the data.")
    parts = [_chart(draw_classes(evaluation.per_class, head[0]), f"{head[0]} of each class", False)]
    columns = list(next(iter(known.values())))
    rows = [
        (name, *("" if figures.get(c) is None else f"{figures[c]:.1f}" for c in columns))
        for name, figures in evaluation.per_class.items()
    ]
    table = _table(("class", *columns), rows, numbers=range(1, 1 + len(columns)))
    parts.append(f"<details><summary>table of {len(rows)} classes</summary>{table}</details>")
    if evaluation.task == "detection":
        parts.append(_chart(draw_precision_recall(evaluation.precisions()), "precision over recall", True))
        scenes = read_scenes(evaluation.annotations, evaluation.detections(), evaluation.classes)
        names, counts = [*evaluation.classes, NOTHING], confusion(scenes)
        unit = "objects (detections from score 0.3, IoU 0.5)"
    else:
        names, counts, unit = evaluation.classes, evaluation.arrays["confusion"], "pixels"
    parts.append(_chart(draw_confusion(counts, names, unit), "what is taken for what", len(names) > 8))
    return "".join(parts)


def _predictions(evaluation: Evaluation | None, count: int) -> str:
    if evaluation is None:
        return _absent("No checkpoint was tested.")
    best, worst = best_and_worst(evaluation, count)
    if not best:
        return _absent("No image has anything to find.")
    if evaluation.task == "detection":
        order = "Left what is there, right what was found from score 0.3 on. Ranked by panoptic quality."
    else:
        order = "Truth, what was found, and the wrong pixels. Ranked by the image's mean IoU."
    colours = class_colours(len(evaluation.classes))
    seen = [i for i, name in enumerate(evaluation.classes) if _occurs(evaluation.per_class.get(name, {}))]
    swatches = "".join(
        f'<span><i style="background:rgb{colours[i]}"></i>{_text(evaluation.classes[i])}</span>'
        for i in seen[:40]
    )
    parts = [f'<p class="soft">{order}</p><p class="legend">{swatches}</p>']
    for title, cards in ((f"The {len(best)} best", best), (f"The {len(worst)} worst", worst)):
        if cards:
            parts.append(f'<h3>{title}</h3><div class="cards">{"".join(map(_card, cards))}</div>')
    return "".join(parts)


def _occurs(figures: Mapping[str, float | None]) -> bool:
    return any(value is not None for value in figures.values())


def _card(card: Card) -> str:
    source = _data_url("jpeg", encode_jpeg(card.picture))
    text = _text(f"{card.name}: {card.quality:.0f}%")
    return f'<figure><img src="{source}" alt="{text}" loading="lazy"><figcaption>{text}</figcaption></figure>'


# --------------------------------------------------------------------------------------------- pieces


class Raw(str):
    """Text that is HTML already."""


def _text(value: object) -> str:
    return value if isinstance(value, Raw) else html.escape(str(value))


def _absent(reason: str) -> str:
    return f'<p class="soft">{_text(reason)}</p>'


def _pairs(lines: Iterable[tuple[str, str]]) -> str:
    rows = "".join(
        f'<tr><th>{_text(name)}</th><td class="path">{_text(value)}</td></tr>' for name, value in lines
    )
    return f"<table>{rows}</table>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int]) -> str:
    """A table that scrolls by itself where the screen is narrow; columns ``numbers`` are set to the right."""
    right = set(numbers)

    def line(cells: Sequence[str], tag: str) -> str:
        marked = (
            f"<{tag}{' class=n' if i in right else ''}>{_text(cell)}</{tag}>" for i, cell in enumerate(cells)
        )
        return f"<tr>{''.join(marked)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f'<div class="wide"><table><thead>{line(head, "th")}</thead><tbody>{body}</tbody></table></div>'


def _chart(figure: Figure, alt: str, scroll: bool) -> str:
    """A figure as PNG; ``scroll`` keeps a wide one readable on a phone."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, facecolor="white")
    width = round(figure.get_figwidth() * 100)
    source = _data_url("png", buffer.getvalue())
    kind = "chart scroll" if scroll else "chart"
    return f'<figure class="{kind}"><img src="{source}" alt="{_text(alt)}" width="{width}"></figure>'


def _data_url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def encode_jpeg(picture: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB -> JPEG."""
    done, data = cv2.imencode(
        ".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 82]
    )
    assert done
    return data.tobytes()
