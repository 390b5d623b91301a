"""Parameters and MACs against hand counts and Table 1."""

import pytest
import torch
from published import TABLES
from torch import nn

from convnext_dense.complexity import (
    Comparison,
    Complexity,
    classifier_complexity,
    count_macs,
    count_params,
    format_table,
)

ARCH = {"T": "tiny", "S": "small", "B": "base", "L": "large", "XL": "xlarge"}


def test_counts_by_hand():
    with torch.device("meta"):
        conv = nn.Conv2d(3, 8, kernel_size=3, padding=1)
        grouped = nn.Conv2d(8, 8, kernel_size=7, padding=3, groups=8)
        linear = nn.Linear(8, 5)
        image = torch.empty(2, 3, 10, 12)
    macs = count_macs(lambda: linear(grouped(conv(image)).permute(0, 2, 3, 1)))
    positions = 2 * 10 * 12
    assert macs == positions * (8 * 3 * 9 + 8 * 49 + 8 * 5)
    assert count_params(nn.Sequential(conv, grouped, linear)) == (216 + 8) + (392 + 8) + (40 + 5)


def test_shared_parameters_count_once():
    layer = nn.Linear(4, 4)
    assert count_params(nn.Sequential(layer, layer)) == 20


@pytest.mark.parametrize("row", TABLES["imagenet"]["rows"], ids=lambda row: f"{row['model']}-{row['size']}")
def test_table_1(row):
    size = row["size"]
    counted = classifier_complexity(ARCH[row["model"].split("-")[1]], size, size)
    assert counted.params_m == pytest.approx(row["params_m"], abs=0.5)  # printed without decimals
    assert counted.macs_g == pytest.approx(row["flops_g"], rel=0.01)


def test_table_shows_the_difference_or_a_dash():
    rows = [
        Comparison("cascade/convnext_b_3x", Complexity(145_800_000, 963_570_000_000, (800, 1280)), 146, 964),
        Comparison("own.py", Complexity(1_000_000, 2_000_000_000, (64, 32))),
    ]
    lines = format_table(rows).splitlines()
    assert lines[1].split() == [
        "cascade/convnext_b_3x",
        "800x1280",
        "145.8",
        "146",
        "-0.2",
        "963.57",
        "964",
        "-0.43",
    ]
    assert lines[2].split() == ["own.py", "64x32", "1.0", "-", "-", "2.00", "-", "-"]
