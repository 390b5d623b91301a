"""Measurements as records, one JSON object per line in ``results/*.jsonl``, compared with the paper.

A record says what was measured (row, config, checkpoint, data), under which conditions, and the figures in
percent. Figures of a part of a data set are never put beside the paper's.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from convnext_dense.errors import DataError
from convnext_dense.evaluation.folder import Task
from convnext_dense.results import paper
from convnext_dense.support.locks import locked
from convnext_dense.support.text_tables import aligned

TOLERANCE = {"box AP": 0.2, "mask AP": 0.2, "mIoU": 0.3}
"""Percent points within which a figure counts as the paper's; AP50 and AP75 are shown, not judged."""

_EPSILON = 1e-9  # 46.4 - 46.2 is a little more than 0.2 in floating point


class ResultsError(DataError):
    """A record file that cannot be read; the message names file and line."""


class Difference(NamedTuple):
    """One figure beside the paper's, in percent.

    Attributes:
        paper: ``None`` where nothing is published, or where the data set is not the paper's.
        inside: whether the difference is within the tolerance; ``None`` where it is not judged.
    """

    metric: str
    measured: float
    paper: float | None
    inside: bool | None

    @property
    def difference(self) -> float | None:
        """Measured minus published."""
        return None if self.paper is None else self.measured - self.paper


# --------------------------------------------------------------------------------------------- records


def append_record(path: str | Path, record: Mapping) -> None:
    """Append one line to ``path`` atomically.

    The line is one write to a file opened for appending, under a lock
    (:mod:`convnext_dense.support.locks`), so two runs do not mix; without locks the one write must be
    enough. Half a line that an earlier loss of power left is ended first, and :func:`read_records` skips it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(record, allow_nan=False).encode() + b"\n"
    with locked(path), open(path, "a+b") as file:
        if file.seek(0, os.SEEK_END) and not _ends_with_newline(file):
            line = b"\n" + line
        os.write(file.fileno(), line)
        os.fsync(file.fileno())


def _ends_with_newline(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def read_records(folder: str | Path, kind: str | None = None) -> list[dict]:
    """Records of every ``*.jsonl`` of ``folder`` in the order of their writing; none if there is no folder.

    Args:
        folder: folder of the records.
        kind: only records of this ``kind``, such as ``accuracy``.

    Raises:
        ResultsError: a line is not a JSON object, unless it looks cut off.
    """
    records = []
    for path in sorted(Path(folder).glob("*.jsonl")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                if line.startswith("{") and not line.endswith("}"):
                    continue  # cut off by a loss of power
                raise ResultsError(f"{path}, line {number}: {error}; remove that line") from None
            if not isinstance(record, dict):
                raise ResultsError(f"{path}, line {number}: not a JSON object; remove that line")
            if kind is None or record.get("kind") == kind:
                records.append(record)
    return records


def find_record(records: Iterable[Mapping], wanted: Mapping) -> Mapping | None:
    """The newest record that agrees with ``wanted`` in every entry, including nested ones."""
    found = None
    for record in records:
        if _agrees(record, wanted):
            found = record
    return found


def _agrees(record: Mapping, wanted: Mapping) -> bool:
    for key, value in wanted.items():
        if isinstance(value, Mapping):
            if not isinstance(record.get(key), Mapping) or not _agrees(record[key], value):
                return False
        elif record.get(key) != value:
            return False
    return True


def read_latencies(records: Iterable[Mapping]) -> tuple[dict[str, float], str]:
    """Row -> measured latency of one image through the whole model in ms, and the conditions.

    Only speed records (see :mod:`convnext_dense.bench.timing`) with the device, precision and size of the
    newest one count; of several contenders of a row that are ours, the fastest.
    """
    wanted = {"part": "model", "pass": "inference", "batch": 1}
    known = [
        record
        for record in records
        if record.get("median_ms") and all(record.get(key) == value for key, value in wanted.items())
    ]
    if not known:
        return {}, ""
    conditions = ("device", "dtype", "height", "width", "compiled")
    latencies: dict[str, float] = {}
    for record in known:
        contender = record.get("contender")
        row = contender if contender in paper.ROWS else record.get("row") if record.get("ours") else None
        if row and all(record.get(key) == known[-1].get(key) for key in conditions):
            latencies[row] = min(record["median_ms"], latencies.get(row, float("inf")))
    newest = known[-1]
    size = f"{newest['height']}x{newest['width']}"
    return latencies, f"{size}, {newest['dtype']}, {newest['device']}"


# ---------------------------------------------------------------------------------------------- hashes


def file_hash(path: str | Path) -> str:
    """First 16 digits of the SHA-256 of a file."""
    with open(path, "rb") as file:
        return _digest(iter(lambda: file.read(1 << 20), b""))


def content_hash(content: object) -> str:
    """First 16 digits of the SHA-256 of plain values, the same whatever the order of keys."""
    return _digest([json.dumps(content, sort_keys=True, default=str).encode()])


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


# ------------------------------------------------------------------------------------------ comparison

COCO_VAL = dict(images=5000, objects=36_781, classes=80)
ADE20K_VAL = dict(images=2000, classes=150)


def dataset_entry(
    task: Task, folder: str, images: int, classes: int, objects: int | None, names: Sequence[str]
) -> dict:
    """The data entry of a record; the paper's val sets are recognised by counts and file names.

    Args:
        task: task that is evaluated on it.
        folder: name of the data's folder.
        images, classes: numbers of images and classes.
        objects: number of annotated instances of a detection set.
        names: file names of the images.

    Returns:
        name, images, full; the name says if the data set is not whole.
    """
    if task == "detection":
        full = dict(images=images, objects=objects, classes=classes) == COCO_VAL
        known = "COCO val2017"
    else:
        full = dict(images=images, classes=classes) == ADE20K_VAL
        full = full and all(name.startswith("ADE_val_") for name in names)
        known = "ADE20K val"
    name = known if full else f"{folder} (not {known}: {images} images, {classes} classes)"
    return dict(name=name, images=images, classes=classes, objects=objects, full=full)


def published_metrics(row: paper.Row | None, tta: bool) -> dict[str, float | None]:
    """Figures of a row's table in percent by their names in records; ``None`` is not published.

    Args:
        row: a row of COCO or ADE20K; others, and ``None``, have no such figures.
        tta: whether at several scales and flip, which the tables have for ADE20K only.
    """
    if isinstance(row, paper.CocoRow) and not tta:
        kinds = (("box", row.box), ("mask", row.mask))
        return {
            f"{kind} {name}": value
            for kind, aps in kinds
            for name, value in zip(("AP", "AP50", "AP75"), aps, strict=True)
        }
    if isinstance(row, paper.Ade20kRow):
        return {"mIoU": row.miou_ms if tta else row.miou}
    return {}


def compare(record: Mapping, tolerance: Mapping[str, float] = TOLERANCE) -> list[Difference]:
    """Compare the figures of an accuracy record with those of its row.

    Only the paper's whole val set is compared: on other data every ``paper`` is ``None``.

    Args:
        record: the accuracy record.
        tolerance: metric -> largest difference in percent points; other metrics are not judged.
    """
    row = paper.ROWS.get(record.get("row") or "")
    whole = record["dataset"]["full"]
    published = published_metrics(row, record["tta"]) if whole else {}
    return [
        Difference(name, value, published.get(name), _inside(value, published.get(name), tolerance.get(name)))
        for name, value in record["metrics"].items()
    ]


def _inside(measured: float, published: float | None, tolerance: float | None) -> bool | None:
    if published is None or tolerance is None:
        return None
    return abs(measured - published) <= tolerance + _EPSILON


def format_comparison(record: Mapping) -> str:
    """A record as aligned text: metric, paper, measured, difference, verdict, and the conditions."""
    tested = "several scales and flip" if record["tta"] else "one scale"
    if record.get("dtype", "fp32") != "fp32":
        tested += f", {record['dtype']}"
    lines = [
        f"{record['row'] or record['config']}, {record['checkpoint']['name']}, {tested}",
        f"data: {record['dataset']['name']}",
    ]
    if not record["dataset"]["full"]:
        lines.append("not the paper's val set, so nothing is compared with the paper")
    table = [("", "paper", "measured", "difference", "")]
    for metric, measured, published, inside in compare(record):
        difference = "-" if published is None else f"{measured - published:+.2f}"
        verdict = {True: "inside the tolerance", False: "OUTSIDE the tolerance", None: ""}[inside]
        if inside is not None:
            verdict += f" of {TOLERANCE[metric]}"
        shown = "-" if published is None else f"{published:.1f}"
        table.append((metric, shown, f"{measured:.2f}", difference, verdict))
    return "\n".join([*lines, aligned(table, "lrrrl")])
