"""Parameters and MACs against hand counts and Table 1."""

import pytest
import torch
from published import TABLES
from torch import nn

from convnext_dense import Classifier
from convnext_dense.bench.complexity import (
    Comparison,
    Complexity,
    classifier_complexity,
    count_macs,
    count_params,
    format_table,
)
from convnext_dense.results import paper

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


@pytest.mark.parametrize("row", TABLES["isotropic"]["rows"], ids=lambda row: row["model"])
def test_table_2(row):
    """Parameters are printed as whole millions, MACs with one decimal: 22 and 4.3 for S."""
    (published,) = [each for each in paper.ISOTROPIC if each.model == row["model"]]
    with torch.device("meta"):
        # the released L alone has a layer scale: 36 blocks of 1024 channels, 0.01% of its parameters
        scale = 1.0 if "-L" in row["model"] else 0.0
        model = Classifier(published.arch, layer_scale_init_value=scale)
        image = torch.empty(1, 3, published.size, published.size)
    figures = list(row.values())  # model, params in 1e6, MACs in 1e9, top-1
    assert count_params(model) / 1e6 == pytest.approx(figures[1], abs=0.5)
    assert count_macs(lambda: model(image)) / 1e9 == pytest.approx(figures[2], rel=0.01)


def test_table_shows_the_difference_or_a_dash():
    rows = [
        Comparison("cascade/convnext_b_3x", Complexity(145_800_000, 963_570_000_000, (800, 1280)), 146, 964),
        Comparison("own.py", Complexity(1_000_000, 2_000_000_000, (64, 32), computed=1_500_000_000)),
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
        "963.57",
    ]
    assert lines[2].split() == ["own.py", "64x32", "1.0", "-", "-", "2.00", "-", "-", "1.50"]
