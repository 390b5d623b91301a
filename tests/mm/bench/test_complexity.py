"""Parameters and MACs of whole models against the paper's tables."""

import json

import pytest
from published import TABLES, config, run_command

from convnext_dense.mm.bench.complexity import compare, countable_rows
from convnext_dense.mm.models.complexity import config_complexity

FOLDERS = {"mask_rcnn": "mask_rcnn", "cascade": "cascade_mask_rcnn"}
BASELINES = {"ResNet-50": "resnet50", "X101-32": "x101_32x4d", "X101-64": "x101_64x4d"}


def recipe_of(folder: str, row: dict) -> str:
    name = BASELINES.get(row["backbone"], row["backbone"].lower().replace("-", "_"))
    return f"{folder}/{name}{'_in22k' if row['pretrain'] == '22K' else ''}_3x"


COCO = [
    pytest.param(recipe_of(folder, row), row, id=recipe_of(folder, row))
    for folder, method in FOLDERS.items()
    for row in TABLES["coco"][method]
]


@pytest.mark.parametrize(("name", "row"), COCO)
def test_table_3(name, row):
    counted = config_complexity(config(name))
    assert counted.shape == (800, 1280)
    if "ConvNeXt" in row["backbone"]:
        assert counted.macs_g == pytest.approx(row["flops_g"], abs=1)
        assert counted.params_m == pytest.approx(row["params_m"], abs=1)
    else:
        assert counted.macs_g == pytest.approx(row["flops_g"], rel=0.01)


def ade20k_recipe_of(row: dict) -> str:
    name = row["backbone"].lower().replace("-", "_")
    return f"upernet/{name}{'_in22k' if row['pretrain'] == '22K' else ''}_{row['crop']}_160k"


ADE20K = [
    pytest.param(ade20k_recipe_of(row), row, id=ade20k_recipe_of(row)) for row in TABLES["ade20k"]["upernet"]
]


@pytest.mark.parametrize(("name", "row"), ADE20K)
def test_table_4(name, row):
    counted = config_complexity(config(name))
    assert counted.shape == (row["crop"], 4 * row["crop"])
    tolerance = dict(abs=1) if "ConvNeXt" in row["backbone"] else dict(rel=0.01)
    assert counted.macs_g == pytest.approx(row["flops_g"], **tolerance)
    assert counted.params_m == pytest.approx(row["params_m"], abs=1)
    assert counted.computed < 0.85 * counted.macs, "the head convolves each map at its own resolution"


def test_a_segmentor_without_a_crop_needs_a_shape():
    cfg = config("upernet/convnext_t_512_160k")
    counted = config_complexity(cfg)
    cfg.model.data_preprocessor.pop("size")
    with pytest.raises(ValueError, match="give a shape"):
        config_complexity(cfg)
    assert config_complexity(cfg, (512, 2048)) == counted


def test_the_paper_is_beside_its_protocol_only():
    own_shape = compare("mask_rcnn/convnext_t_3x", (640, 640))
    assert own_shape.paper_macs_g is None and own_shape.paper_params_m == 48
    assert compare("configs/mask_rcnn/convnext_t_3x.py").paper_macs_g == 262
    assert {"cascade/swin_l_in22k_3x", "imagenet/convnext_xl_in22k_384"} <= set(countable_rows())
    assert {name for name, _ in (param.values for param in ADE20K)} <= set(countable_rows())


def test_command_line():
    result = run_command("benchmark", "complexity", "imagenet/convnext_t_224", "--json")
    (record,) = json.loads(result.stdout)
    assert record["params"] == 28_589_128 and record["paper_macs_g"] == 4.5
    unknown = run_command("benchmark", "complexity", "cascade/convnext_x")
    assert unknown.returncode == 2 and "near: cascade/convnext" in unknown.stderr
