"""The page reports only verdicts of the present code, and a percentage only of all structures."""

import json

from repository import ROOT

from convnext_dense.mm.swap.structures import Structure
from convnext_dense.mm.swap.survey import COLUMNS, Column, from_json
from convnext_dense.mm.swap.survey_report import Count, pass_rate, survey_page
from convnext_dense.mm.swap.verdict import Verdict

CODE = {"convnext_dense.a": "0", "convnext_dense.b": "1"}
ROWS = [  # name, number of configs, backbone, outcome, reason
    ("mmdet::a.py", 3, "ResNet", "passes", ""),
    ("mmseg::b.py", 2, "UNet", "refused", "levels of stride 1"),
    ("mmseg::c.py", 1, "VisionTransformer", "refused", "one resolution"),
    ("mmdet::d.py", 1, "SwinTransformer", "refused", "X cuts the image into patches of 16 pixels"),
    ("mmdet::e.py", 4, "ResNet", "fails as it is", "no op"),
    ("mmdet::f.py", 1, "ResNet", "fails", "a|b<c"),
    ("mmdet::g.py", 1, "ResNet", "refused", "mmpretrain.ResNet needs mmpretrain, which is not installed"),
]


def column(code: dict = CODE, line: str = "official", known: int = len(ROWS)) -> Column:
    structures = [Structure(name, kind, (name, *["x"] * (n - 1))) for name, n, kind, _, _ in ROWS]
    verdicts = {row[0]: Verdict(row[3], row[4], row[0], 1.0) for row in ROWS[:known]}
    environment = {"line": line, "operators": "portable", "mmdet": "3.3.0"}
    return Column("2026-01-02", environment, code, structures, [("mmdet::no.py", "has no model")], verdicts)


def test_the_rate_counts_what_it_says():
    assert pass_rate(column()) == (Count(1, 3), Count(3, 6))
    page = survey_page([column()], CODE)
    assert "| mmdet, official, portable operators | 1 / 3 | 2 / 2 | 1 / 4 | 1 / 1 | 0 / 0 | 5 / 10 |" in page
    assert "1 of 3 structures" in page and "(33.3%), 3 of 6 configs (50.0%)" in page
    assert "| 1 / 1 | ResNet | a\\|b&lt;c | `mmdet::f.py` |" in page
    assert "| 1 | has no model | `mmdet::no.py` |" in page


def test_all_columns_are_named_also_those_not_measured():
    page = survey_page([column()], CODE)
    lines = [line for line in page.splitlines() if line.startswith(tuple(f"| {name} |" for name in COLUMNS))]
    assert len(lines) == 4
    assert "| 7 / 13 of 7 / 13 | 2026-01-02 | mmdet 3.3.0 |" in lines[0]
    assert all("| not measured |" in line for line in lines[1:])


def test_no_percentage_while_verdicts_are_missing():
    page = survey_page([column(known=6)], CODE)
    assert pass_rate(column(known=6)) is None
    assert "no percentage: 6 of 7 structures" in page and "%" not in page
    assert "| 6 / 12 of 7 / 13 |" in page
    assert "| 1 / 3 | 1 / 1 | 1 / 4 | 1 / 1 | 1 / 1 | 5 / 10 |" in page


def test_verdicts_of_other_code_are_not_reported():
    other = column(code={**CODE, "convnext_dense.b": "2"}, line="onedl")
    page = survey_page([other], CODE)
    assert "none: 1 module (convnext_dense.b) changed since" in page
    assert "%" not in page and "UNet" not in page and "1 / 3" not in page
    both = survey_page([column(), other], CODE)
    assert both.count("33.3%") == 1 and "mmdet, onedl" not in both


def test_the_record_of_this_repository_is_whole():
    record = json.loads((ROOT / "docs/zoo.json").read_text())
    columns = [from_json(each) for each in record["columns"]]
    assert columns and {each.name for each in columns} <= set(COLUMNS)
    for each in columns:
        members = [name for structure in each.structures for name in structure.members]
        assert len(members) == len(set(members)) > 1000
        assert set(each.verdicts) <= {structure.digest for structure in each.structures}
