"""Verdicts on released checkpoints, as tables of plain values."""

import json

import pytest
from published import TABLES

from convnext_dense.results import paper
from convnext_dense.results.reproduction import (
    Planned,
    Verdict,
    exit_code,
    first_step,
    format_missing,
    format_plan,
    format_verdicts,
    judge,
    page,
    published_figures,
    published_tests,
    released_rows,
    select_rows,
    summary,
)

DETECTOR, SEGMENTOR = "cascade/convnext_b_3x", "upernet/convnext_t_512_160k"
COCO = dict(name="COCO val2017", full=True)
ADE = dict(name="ADE20K val", full=True)
PART = dict(name="coco (not COCO val2017: 25 images, 80 classes)", full=False)


def record(row=DETECTOR, dataset=COCO, tta=False, **metrics) -> dict:
    return dict(
        row=row,
        tta=tta,
        dataset=dataset,
        metrics=metrics or {"box AP": 52.7, "box AP50": 60.0, "mask AP": 45.6},
        checkpoint=dict(name="x.pth", hash="0"),
        time="2026-01-02T03:04:05+00:00",
    )


# ---- rows


def test_thirteen_convnext_rows_are_looked_at_and_baselines_when_they_are_named():
    rows = select_rows(None)
    assert len(rows) == 13
    assert sum(isinstance(paper.ROWS[row], paper.CocoRow) for row in rows) == 7
    assert set(rows) < set(released_rows()) and not any("v2" in row for row in released_rows())
    assert select_rows(["swin_t_512_160k"]) == ["upernet/swin_t_512_160k"]


@pytest.mark.parametrize(
    ("patterns", "rows"),
    [
        (["mask_rcnn/convnext_t_3x"], ["mask_rcnn/convnext_t_3x"]),
        (["convnext_t_3x"], ["mask_rcnn/convnext_t_3x", "cascade/convnext_t_3x"]),
        (["upernet/*_640_*", "cascade/convnext_s*"], [
            "cascade/convnext_s_3x",
            *(f"upernet/convnext_{size}_in22k_640_160k" for size in ("b", "l", "xl")),
        ]),
    ],
)  # fmt: skip
def test_rows_are_chosen_by_patterns_in_the_papers_order(patterns, rows):
    assert select_rows(patterns) == rows


def test_a_pattern_without_a_row_names_the_near_ones():
    with pytest.raises(
        ValueError, match=r"--rows cascade/convnext_t: no released row.*cascade/convnext_t_3x"
    ):
        select_rows(["upernet/*", "cascade/convnext_t"])


def test_only_tests_with_published_figures_are_wanted():
    wanted = {
        (DETECTOR, False): [False], (DETECTOR, True): [False],
        (SEGMENTOR, False): [False], (SEGMENTOR, True): [False, True],
        ("upernet/swin_t_512_160k", False): [], ("upernet/swin_t_512_160k", True): [True],
    }  # fmt: skip
    assert {key: published_tests(*key) for key in wanted} == wanted
    printed = next(row for row in TABLES["ade20k"]["upernet"] if row["backbone"] == "ConvNeXt-T")
    assert published_figures(SEGMENTOR, True) == {"mIoU": printed["miou_ms"]}
    assert published_figures(DETECTOR, False) == {"box AP": 52.7, "mask AP": 45.6}


# ---- verdicts


@pytest.mark.parametrize(
    ("made", "outcome"),
    [
        (record(**{"box AP": 52.7, "mask AP": 45.6}), "reproduced"),
        (record(**{"box AP": 52.8, "mask AP": 45.5}), "reproduced"),
        (record(**{"box AP": 52.801, "mask AP": 45.6}), "differs"),
        (record(**{"box AP": 52.7, "mask AP": 45.49}), "differs"),
        (record(**{"box AP": 52.7, "box AP50": 10.0, "mask AP": 45.6}), "reproduced"),
        (record(dataset=PART), "not the whole val set"),
        (record(**{"box AP": 52.7}), "failed"),
        (None, "not yet measured"),
    ],
)
def test_a_detector_is_judged_by_box_and_mask_ap(made, outcome):
    verdict = judge(Planned(DETECTOR), made)
    assert verdict.outcome == outcome
    assert outcome != "failed" or verdict.reason == "the test gave no mask AP"


@pytest.mark.parametrize(
    ("tta", "miou", "outcome"),
    [
        (False, 46.1, "reproduced"),
        (False, 46.7, "differs"),
        (True, 46.7, "reproduced"),
        (True, 46.0, "differs"),
    ],
)
def test_each_column_of_ade20k_has_its_own_verdict(tta, miou, outcome):
    assert judge(Planned(SEGMENTOR, tta), record(SEGMENTOR, ADE, tta, mIoU=miou)).outcome == outcome


def test_what_is_missing_or_failed_is_said_before_any_figure():
    lacking = Planned(DETECTOR, lacks=("checkpoint", "data"))
    assert judge(lacking, record()).text == "not on disk: no checkpoint and no data"
    assert (
        judge(Planned(DETECTOR), failure="a.pth is empty (0 bytes)").text
        == "failed: a.pth is empty (0 bytes)"
    )


@pytest.mark.parametrize(
    ("outcomes", "smoke_test", "status"),
    [
        (["reproduced", "reproduced"], False, 0),
        (["reproduced", "not on disk"], False, 0),
        (["reproduced", "differs"], False, 1),
        (["reproduced", "failed"], False, 1),
        (["failed", "not on disk"], False, 1),
        (["not on disk"], False, 2),
        (["not yet measured", "not on disk"], False, 2),
        (["not the whole val set"], False, 1),
        (["not the whole val set", "not on disk"], True, 0),
        (["not the whole val set", "failed"], True, 1),
        ([], True, 2),
    ],
)
def test_the_exit_status_follows_from_the_verdicts(outcomes, smoke_test, status):
    assert exit_code(outcomes, smoke_test) == status


# ---- text

EXPECTED = ("/data/coco/annotations/instances_val2017.json", "/data/coco/val2017")


def test_the_plan_has_a_line_for_each_test():
    tests = [
        Planned(DETECTOR, lacks=("checkpoint", "data"), expected=EXPECTED),
        Planned(SEGMENTOR),
        Planned(SEGMENTOR, tta=True, recorded=True),
    ]
    head, columns, *lines = format_plan(tests).splitlines()
    assert head.startswith("plan: 1 will run, 1 recorded, 1 not on disk")
    assert columns.split() == ["row", "test", "published", "checkpoint"]
    assert [line.split("  ")[0] for line in lines] == [DETECTOR, SEGMENTOR, SEGMENTOR]
    assert "52.7 / 45.6" in lines[0] and lines[0].endswith(
        "cascade_mask_rcnn_convnext_base_1k_3x.pth  no checkpoint and no data"
    )
    assert "46.0" in lines[1] and lines[1].endswith("will run")
    assert "46.7" in lines[2] and lines[2].endswith("recorded")


@pytest.mark.parametrize(
    ("lacks", "expected", "line"),
    [
        (
            ("checkpoint",),
            (),
            f"nothing can be measured; for {DETECTOR}: download {paper.WEIGHTS[DETECTOR]} into /weights",
        ),
        (
            ("data",),
            EXPECTED,
            f"nothing can be measured; for {DETECTOR}: lay out COCO val2017 as "
            f"{EXPECTED[0]} and {EXPECTED[1]} (--data-root)",
        ),
    ],
)
def test_one_line_says_what_to_get_for_the_test_that_lacks_least(lacks, expected, line):
    other = Planned(SEGMENTOR, lacks=("checkpoint", "data"), expected=("/data/ade/images",))
    assert first_step([other, Planned(DETECTOR, lacks=lacks, expected=expected)], "/weights") == line


def test_missing_files_are_listed_once():
    lacking = Planned(DETECTOR, lacks=("checkpoint", "data"), expected=EXPECTED)
    assert format_missing([lacking, lacking], ["/weights", "cache"]).splitlines() == [
        "checkpoints that are not in /weights or cache; download them into /weights:",
        f"  {paper.WEIGHTS[DETECTOR]}",
        "data that is not there:",
        *(f"  {path}" for path in EXPECTED),
    ]
    assert format_missing([Planned(DETECTOR)], ["/weights"]) == ""


def verdicts() -> list[Verdict]:
    return [
        judge(Planned(DETECTOR), record(**{"box AP": 52.71, "mask AP": 45.38})),
        judge(Planned("mask_rcnn/convnext_t_3x"), failure="a|b.pth is empty"),
        judge(Planned(SEGMENTOR), record(SEGMENTOR, dict(name="mine", full=False), mIoU=12.3)),
    ]


def test_verdicts_show_published_measured_and_difference():
    columns, *lines, counts = format_verdicts(verdicts()).splitlines()
    assert columns.split() == ["row", "test", "published", "measured", "difference", "verdict"]
    cells = [[cell.strip() for cell in line.split("  ") if cell] for line in lines]
    assert cells == [
        [DETECTOR, "one scale", "52.7 / 45.6", "52.71 / 45.38", "+0.01 / -0.22", "differs"],
        ["mask_rcnn/convnext_t_3x", "one scale", "46.2 / 41.7", "-", "-", "failed: a|b.pth is empty"],
        [SEGMENTOR, "one scale", "-", "12.30", "-", "not the whole val set: mine"],
    ]
    assert counts == "1 differs, 1 failed, 1 not the whole val set (tolerance: 0.1 points)"


def test_the_summary_is_plain_json_and_the_page_is_a_table():
    made = summary(verdicts(), {(DETECTOR, False): record()}, "now")
    assert json.loads(json.dumps(made)) == made
    assert made["tolerance"] == 0.1 and [entry["verdict"] for entry in made["tests"]] == [
        "differs", "failed", "not the whole val set"
    ]  # fmt: skip
    assert made["tests"][0]["figures"]["mask AP"] == dict(published=45.6, measured=45.38)
    assert made["tests"][0]["checkpoint"] == dict(name="x.pth", hash="0")
    assert made["tests"][1]["reason"] == "a|b.pth is empty" and made["tests"][1]["measured"] is None
    text = page(verdicts(), "now")
    assert text.count("\n| ") == 5 and r"a\|b.pth" in text
