"""The tables as data against the figures as printed."""

import pytest
from published import TABLES

from convnext_dense import list_configs, paper
from convnext_dense.archs import ARCHS


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


def test_isotropic_and_roadmap():
    isotropic = [(row.model, row.params_m, row.macs_g, row.top1) for row in paper.ISOTROPIC]
    assert isotropic == [tuple(row.values()) for row in TABLES["isotropic"]["rows"]]
    roadmap = [(step.step, step.top1, step.macs_g) for step in paper.ROADMAP]
    assert roadmap == [tuple(row.values()) for row in TABLES["roadmap"]["rows"]]


def test_every_row_has_its_own_name_and_every_coco_row_its_recipe():
    tables = (paper.COCO, paper.ADE20K, paper.IMAGENET, paper.ISOTROPIC)
    assert len(paper.ROWS) == sum(map(len, tables))
    assert {row.name for row in paper.COCO} <= set(list_configs())
    assert {row.provenance for row in paper.ROWS.values()} == {"published"}


def test_released_weights_belong_to_rows():
    assert set(paper.WEIGHTS) <= set(paper.ROWS)
    released = {row.name for row in paper.ROWS.values() if "convnext" in row.name}
    assert released <= set(paper.WEIGHTS)
    assert len(set(paper.WEIGHTS.values())) == len(paper.WEIGHTS)


def test_an_unknown_row_names_the_near_ones():
    assert paper.find_row("cascade/convnext_b_3x").box.ap == 52.7
    with pytest.raises(KeyError, match="cascade/convnext_b_3x"):
        paper.find_row("cascade/convnext_base_3x")
