"""The tables as data against the figures as printed."""

import pytest
from published import TABLES

from convnext_dense import list_configs
from convnext_dense.models.archs import ARCHS, ISOTROPIC_ARCHS
from convnext_dense.results import paper

# Woo et al., Tables 6 and 7, rows of FCMAE. Backbone: MACs, box AP, AP50, AP75, mask AP, AP50, AP75.
V2_TABLE_6 = """
ConvNeXt V2-B  486  52.9 72.6 58.9  46.6 70.0 51.1
ConvNeXt V2-L  875  54.4 73.9 60.4  47.7 71.4 52.3
ConvNeXt V2-H 2525  55.7 75.2 61.8  48.9 72.8 53.6
"""
# backbone: side of the crop, mIoU at several scales, parameters, MACs
V2_TABLE_7 = """
ConvNeXt V2-B 512 52.1 122 1170
ConvNeXt V2-L 512 53.7 235 1573
ConvNeXt V2-H 512 55.0 707 3272
ConvNeXt V2-H 640 57.0 707 5113
"""


@pytest.mark.parametrize("method", ["mask_rcnn", "cascade_mask_rcnn"])
def test_coco(method):
    label = {"mask_rcnn": "Mask R-CNN", "cascade_mask_rcnn": "Cascade Mask R-CNN"}[method]
    rows = [row for row in paper.COCO if row.method == label]
    printed = TABLES["coco"][method]
    assert len(rows) == len(printed)
    for row, figures in zip(rows, printed, strict=True):
        assert figures == dict(
            backbone=row.backbone,
            pretrain=row.pretrain,
            flops_g=row.macs_g,
            fps=row.fps,
            box_ap=row.box.ap,
            box_ap50=row.box.ap50,
            box_ap75=row.box.ap75,
            mask_ap=row.mask.ap,
            mask_ap50=row.mask.ap50,
            mask_ap75=row.mask.ap75,
            params_m=row.params_m,
        )


def test_ade20k():
    rows = [
        dict(
            backbone=row.backbone,
            pretrain=row.pretrain,
            crop=row.crop,
            miou=row.miou,
            miou_ms=row.miou_ms,
            params_m=row.params_m,
            flops_g=row.macs_g,
        )
        for row in paper.ADE20K
    ]
    assert rows == TABLES["ade20k"]["upernet"]


def test_imagenet():
    rows = [
        dict(
            model=row.model,
            pretrain=row.pretrain,
            size=row.size,
            params_m=row.params_m,
            flops_g=row.macs_g,
            top1=row.top1,
        )
        for row in paper.IMAGENET
    ]
    assert rows == TABLES["imagenet"]["rows"]
    assert {row.arch for row in paper.IMAGENET} <= set(ARCHS)


def printed(table: str) -> list[tuple]:
    """Lines of a table as (backbone, number, ...)."""
    lines = [line.split() for line in table.strip().splitlines()]
    return [(" ".join(words[:2]), *map(float, words[2:])) for words in lines]


def test_the_tables_of_v2():
    coco = [(row.backbone, row.macs_g, *row.box, *row.mask) for row in paper.COCO_V2]
    assert coco == printed(V2_TABLE_6)
    assert all(row.method == "Mask R-CNN" and row.pretrain == "1K" for row in paper.COCO_V2)
    ade20k = [(row.backbone, row.crop, row.miou_ms, row.params_m, row.macs_g) for row in paper.ADE20K_V2]
    assert ade20k == printed(V2_TABLE_7)
    # the 22K row is the one at 640 pixels; V2 prints no mIoU at one scale, and no frames per second
    assert all((row.pretrain == "22K") == (row.crop == 640) for row in paper.ADE20K_V2)
    assert not any(row.miou for row in paper.ADE20K_V2) and not any(row.fps for row in paper.COCO_V2)
    assert {row.table for row in (*paper.COCO_V2, *paper.ADE20K_V2)} == {"V2 Table 6", "V2 Table 7"}


def test_isotropic_and_roadmap():
    assert {row.arch: row.model[9].lower() for row in paper.ISOTROPIC} == {
        name: name.removeprefix("isotropic_")[0] for name in ISOTROPIC_ARCHS
    }
    isotropic = [(row.model, row.params_m, row.macs_g, row.top1) for row in paper.ISOTROPIC]
    assert isotropic == [tuple(row.values()) for row in TABLES["isotropic"]["rows"]]
    roadmap = [(step.step, step.top1, step.macs_g) for step in paper.ROADMAP]
    assert roadmap == [tuple(row.values()) for row in TABLES["roadmap"]["rows"]]


def test_every_row_has_its_own_name_and_every_coco_row_its_recipe():
    tables = (paper.COCO, paper.ADE20K, paper.COCO_V2, paper.ADE20K_V2, paper.IMAGENET, paper.ISOTROPIC)
    assert len(paper.ROWS) == sum(map(len, tables))
    assert {row.name for row in paper.COCO} <= set(list_configs())
    assert {row.provenance for row in paper.ROWS.values()} == {"published"}


def test_released_weights_belong_to_rows():
    assert set(paper.WEIGHTS) <= set(paper.ROWS)
    released = {row.name for row in paper.ROWS.values() if "convnext_" in row.name}
    assert released <= set(paper.WEIGHTS)
    assert not {row.name for row in (*paper.COCO_V2, *paper.ADE20K_V2)} & set(paper.WEIGHTS)  # none released
    assert len(set(paper.WEIGHTS.values())) == len(paper.WEIGHTS)


def test_an_unknown_row_names_the_near_ones():
    assert paper.find_row("cascade/convnext_b_3x").box.ap == 52.7
    with pytest.raises(KeyError, match="cascade/convnext_b_3x"):
        paper.find_row("cascade/convnext_base_3x")
