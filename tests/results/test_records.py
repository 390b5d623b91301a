"""Records and tables: whole lines, honest comparisons, tables that are current."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from published import TABLES
from repository import ROOT
from waiting import wait_until

from convnext_dense.results import paper
from convnext_dense.results.records import (
    ResultsError,
    append_record,
    compare,
    dataset_entry,
    file_hash,
    find_record,
    format_comparison,
    read_latencies,
    read_records,
)
from convnext_dense.results.tables import generated, models_page, readme_section

COCO = dict(name="COCO val2017", images=5000, classes=80, objects=36781, full=True)
PART = dict(
    name="mine (not COCO val2017: 25 images, 80 classes)", images=25, classes=80, objects=177, full=False
)


def record(row="cascade/convnext_t_3x", data=COCO, tta=False, **metrics) -> dict:
    return dict(
        kind="accuracy",
        row=row,
        config=row,
        checkpoint=dict(name="x.pth", hash="0"),
        tta=tta,
        dataset=data,
        metrics=metrics or {"box AP": 50.4},
        time="2026-01-02T03:04:05+00:00",
    )


# ---- lines


def test_what_is_written_is_read_in_order(tmp_path):
    for number in range(3):
        append_record(tmp_path / "new" / "a.jsonl", dict(kind="accuracy", number=number))
    append_record(tmp_path / "new" / "a.jsonl", dict(kind="speed", number=3))
    assert [r["number"] for r in read_records(tmp_path / "new")] == [0, 1, 2, 3]
    assert [r["number"] for r in read_records(tmp_path / "new", "speed")] == [3]
    assert read_records(tmp_path / "absent") == []


def test_half_a_line_is_passed_over_and_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"number": 1}\n{"number": 2, "met')
    assert [r["number"] for r in read_records(tmp_path)] == [1]
    append_record(path, dict(number=3))
    assert [r["number"] for r in read_records(tmp_path)] == [1, 3]


@pytest.mark.parametrize("line", ["oops", "[1]", '{"a": }'])
def test_other_lines_are_refused_by_file_and_number(tmp_path, line):
    (tmp_path / "a.jsonl").write_text(f'{{"number": 1}}\n{line}\n')
    with pytest.raises(ResultsError, match=r"a\.jsonl, line 2: .*remove that line"):
        read_records(tmp_path)


def test_writers_side_by_side_leave_whole_lines(tmp_path):
    def write(writer: int) -> None:
        for number in range(40):
            append_record(tmp_path / "a.jsonl", dict(writer=writer, number=number, text="x" * 3000))

    writers = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    found = {(r["writer"], r["number"]) for r in map(json.loads, lines)}
    assert found == {(i, j) for i in range(4) for j in range(40)}


def test_a_killed_writer_leaves_whole_lines(tmp_path):
    code = f"""
from convnext_dense.results.records import append_record
number = 0
while True:
    append_record({str(tmp_path / "a.jsonl")!r}, dict(number=number, text="y" * 5000))
    number += 1
"""
    writer = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    path = tmp_path / "a.jsonl"
    wait_until(lambda: path.is_file() and path.stat().st_size > 100_000)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    lines = path.read_text().splitlines()
    assert len(lines) > 15
    assert [json.loads(line)["number"] for line in lines] == list(range(len(lines)))


def test_what_is_recorded_is_found_by_all_of_its_identity():
    records = [dict(a=1, b=dict(c=2, d=3)), dict(a=1, b=dict(c=2, d=4)), dict(a=2)]
    assert find_record(records, dict(a=1, b=dict(c=2))) is records[1]
    assert find_record(records, dict(a=1, b=dict(c=9))) is None
    assert find_record(records, dict(a=2, b=dict(c=2))) is None
    assert find_record([], dict(a=1)) is None


def test_a_file_is_known_by_its_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_hash(tmp_path / "a") == "ba7816bf8f01cfea"  # of FIPS 180-2


def speed(row: str, median_ms: float | None, **entries) -> dict:
    made = dict(kind="speed", row=row, contender="ours", ours=True, part="model", batch=1, device="gpu")
    made.update(dtype="fp16", height=800, width=1280, compiled=False, median_ms=median_ms)
    return {**made, "pass": "inference", **entries}


def test_latencies_are_those_of_whole_models_under_the_newest_conditions():
    a, b, swin = "cascade/convnext_t_3x", "cascade/convnext_s_3x", "cascade/swin_t_3x"
    rows = [
        speed(a, 900, device="cpu"),
        speed(a, 10, height=400),
        speed(a, 40),
        speed(a, 45, contender="ours, eager"),
        speed(a, 42, contender=swin, ours=False),
        speed(a, 20, contender="timm", ours=False),
        speed(a, 5, part="backbone"),
        speed(a, 6, batch=8),
        speed(a, 7, **{"pass": "training"}),
        speed(b, None),
        speed(b, 50),
    ]
    assert read_latencies(rows) == ({a: 40, swin: 42, b: 50}, "800x1280, fp16, gpu")
    assert read_latencies([]) == ({}, "")


# ---- comparison


@pytest.mark.parametrize(
    ("metric", "value", "difference", "inside"),
    [
        ("box AP", 50.6, 0.2, True),
        ("box AP", 50.61, 0.21, False),
        ("box AP", 50.2, -0.2, True),
        ("mask AP", 43.45, -0.25, False),
        ("box AP50", 60.0, -9.1, None),
        ("box AP small", 33.0, None, None),
    ],
)
def test_a_figure_is_compared_with_the_printed_one(metric, value, difference, inside):
    # Table 3, Cascade Mask R-CNN, ConvNeXt-T: 50.4 69.1 54.8 / 43.7 66.5 47.3
    (line,) = compare(record(**{metric: value}))
    assert line.inside is inside
    assert line.difference == (None if difference is None else pytest.approx(difference))


@pytest.mark.parametrize(("tta", "paper_value", "edge"), [(False, 46.0, 46.3), (True, 46.7, 47.0)])
def test_miou_has_a_column_for_each_way_of_testing(tta, paper_value, edge):
    data = dict(name="ADE20K val", images=2000, classes=150, objects=None, full=True)
    for value, inside in ((edge, True), (edge + 0.01, False)):
        (line,) = compare(record("upernet/convnext_t_512_160k", data, tta, mIoU=value))
        assert (line.paper, line.inside) == (paper_value, inside)


def test_every_published_figure_is_compared():
    for kind, printed in (("mask_rcnn", "mask_rcnn"), ("cascade", "cascade_mask_rcnn")):
        rows = [row for row in paper.COCO if row.name.startswith(kind)]
        for row, figures in zip(rows, TABLES["coco"][printed], strict=True):
            names = {
                f"{part} {name}": figures[f"{part}_{name.lower()}"]
                for part in ("box", "mask")
                for name in ("AP", "AP50", "AP75")
            }
            lines = compare(record(row.name, **dict.fromkeys(names, 1.0)))
            assert {line.metric: line.paper for line in lines} == names


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (record(data=PART), "part of the data"),
        (record(tta=True), "the paper has one scale for COCO"),
        (record(row=None), "no row"),
    ],
)
def test_what_is_not_the_papers_test_is_not_compared(made, why):
    (line,) = compare(made)
    assert line.paper is None and line.inside is None, why


def test_the_terminal_says_what_was_judged_on_what():
    text = format_comparison(record(**{"box AP": 50.5, "mask AP": 43.0}))
    assert "box AP    50.4     50.50       +0.10  inside the tolerance of 0.2" in text
    assert "mask AP   43.7     43.00       -0.70  OUTSIDE the tolerance of 0.2" in text
    partial = format_comparison(record(data=PART, **{"box AP": 50.5}))
    assert "not COCO val2017: 25 images" in partial and "nothing is compared" in partial
    assert "50.4" not in partial


@pytest.mark.parametrize(
    ("task", "counts", "full"),
    [
        ("detection", (5000, 80, 36781), True),
        ("detection", (5000, 80, 36780), False),
        ("detection", (4999, 80, 36781), False),
        ("segmentation", (2000, 150, None), True),
        ("segmentation", (2000, 149, None), False),
        ("segmentation", (1999, 150, None), False),
    ],
)
def test_the_whole_val_set_is_known_by_its_counts(task, counts, full):
    images, classes, objects = counts
    names = [f"ADE_val_{i:08d}.jpg" for i in range(1, images + 1)]
    entry = dataset_entry(task, "mine", images, classes, objects, names)
    assert entry["full"] is full
    assert entry["name"].startswith("mine (not " if not full else ("COCO", "ADE20K"))
    if task == "segmentation":
        assert not dataset_entry(task, "mine", images, classes, objects, ["street.png"])["full"]


# ---- tables


def test_the_tables_are_current():
    records = read_records(ROOT / "results", "accuracy")
    for path, text in generated(ROOT, records).items():
        assert path.read_text() == text, f"{path.name} is outdated: run `make tables`"


def test_tables_hold_every_row_with_its_figures():
    page = models_page([])
    for figures in (*TABLES["coco"]["mask_rcnn"], *TABLES["coco"]["cascade_mask_rcnn"]):
        aps = f"{figures['box_ap']:.1f} | {figures['mask_ap']:.1f}"
        cells = f"| {figures['backbone']} | {figures['pretrain']} | {aps} |"
        assert page.count(cells) >= 1, cells
    for figures in TABLES["ade20k"]["upernet"]:
        assert f"| {figures['miou_ms']:.1f} | not yet measured" in page
    for figures in TABLES["imagenet"]["rows"]:
        assert (
            f"| {figures['model']} | {figures['pretrain']} | {figures['size']} | {figures['top1']:.1f} |"
            in page
        )
    assert all(url in page for url in paper.WEIGHTS.values())


def test_links_of_the_tables_lead_somewhere():
    import re

    for text, folder in ((models_page([]), ROOT / "docs"), (readme_section([]), ROOT)):
        links = re.findall(r"\[(?:config|docs/models\.md)\]\(([^)]+)\)", text)
        assert len(links) > 10
        assert all((folder / link).resolve().is_file() for link in links)


def test_a_measured_row_says_so_and_bold_is_outside():
    good = record(**{"box AP": 50.5, "mask AP": 43.7, "box AP50": 69.0})
    assert "50.5 (+0.1) / 43.7 (+0.0), measured here 2026-01-02" in readme_section([good])
    assert "**49.9 (-0.5)** / 43.7 (+0.0)" in readme_section([record(**{"box AP": 49.9, "mask AP": 43.7})])
    newer = record(**{"box AP": 50.3, "mask AP": 43.7})
    assert "50.3 (-0.1)" in readme_section([good, newer]) and "50.5" not in readme_section([good, newer])


def test_other_data_stands_apart_by_its_name():
    page = models_page([record(data=PART, **{"box AP": 12.3})])
    table, _, other = page.partition("## Measured on other data")
    assert "12.3" not in table and table.count("measured here") == models_page([]).count("measured here")
    assert "box AP 12.3" in other and "25 images" in other
    assert "12.3" not in readme_section([record(data=PART, **{"box AP": 12.3})])


def test_the_command_reports_outdated_tables(tmp_path):
    append_record(tmp_path / "a.jsonl", record(**{"box AP": 50.5, "mask AP": 43.7}))
    command = [sys.executable, str(ROOT / "tools/dev/tables.py"), "--check", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "run `make tables`" in done.stderr and "+0.1" in done.stdout
    assert Path(ROOT / "README.md").read_text().count("measured here 2026-01-02") == 0
