"""Evaluators read the file of their data set, and there is something to compare with."""

import json
from pathlib import Path

import pytest
from mmengine.config import Config

from convnext_dense.errors import UserError
from convnext_dense.mm.datasets.paths import set_data_root
from convnext_dense.mm.datasets.truth import check_truth, flat_keys, follow_datasets


def coco(path: Path, images: int, annotated: bool = True) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = dict(
        images=[dict(id=i, file_name=f"{i}.jpg") for i in range(images)],
        categories=[dict(id=1, name="nut")],
        annotations=[dict(id=i, image_id=i, category_id=1) for i in range(images)] if annotated else [],
    )
    path.write_text(json.dumps(content))
    return str(path)


def config(root: Path, own: str, other: str, **metric) -> Config:
    data = dict(type="CocoDataset", data_root=str(root), ann_file=own, data_prefix=dict(img="x"))
    evaluator = dict(type="CocoMetric", ann_file=str(root / other), **metric)
    return Config(dict(val_dataloader=dict(dataset=data), val_evaluator=evaluator))


@pytest.mark.parametrize(
    ("overrides", "moved", "follows"),
    [
        ({"val_dataloader.dataset.ann_file": "a.json"}, False, True),
        ({"val_dataloader": {"dataset": {"data_root": "x"}}}, False, True),
        ({"val_dataloader.dataset.ann_file": "a.json", "val_evaluator.ann_file": "b.json"}, False, False),
        ({}, True, True),
        ({}, False, False),
        (None, False, False),
    ],
)
def test_the_evaluator_follows_where_its_data_set_alone_was_changed(tmp_path, overrides, moved, follows):
    coco(tmp_path / "a.json", 1)
    coco(tmp_path / "b.json", 2)
    cfg = config(tmp_path, "a.json", "b.json")
    notes = follow_datasets(cfg, overrides, moved)
    assert bool(notes) == follows
    assert Path(cfg.val_evaluator.ann_file).name == ("a.json" if follows else "b.json")
    if follows:
        check_truth(cfg)
    else:
        with pytest.raises(UserError, match=r"val_evaluator\.ann_file is .*b\.json, .* reads .*a\.json"):
            check_truth(cfg)


def test_an_evaluator_whose_file_is_gone_follows(tmp_path):
    coco(tmp_path / "a.json", 1)
    cfg = config(tmp_path, "a.json", "instances_val2017.json")
    assert follow_datasets(cfg, None, moved=False)
    check_truth(cfg)


def test_the_same_images_in_another_file_are_right(tmp_path):
    coco(tmp_path / "a.json", 2, annotated=False)
    coco(tmp_path / "b.json", 2)
    cfg = config(tmp_path, "a.json", "b.json")
    assert follow_datasets(cfg, None, moved=False) == []
    check_truth(cfg)


def test_keys_of_nested_and_dotted_overrides():
    assert flat_keys({"a": {"b": 1, "c.d": 2}, "e.f": 3}) == {"a.b", "a.c.d", "e.f"}


def test_a_file_without_annotations(tmp_path):
    coco(tmp_path / "a.json", 1, annotated=False)
    said = r"nothing to compare with: .*a\.json has no annotations; .*val_evaluator\.format_only=True"
    with pytest.raises(UserError, match=said):
        check_truth(config(tmp_path, "a.json", "a.json"))
    written = config(tmp_path, "a.json", "a.json", format_only=True)
    check_truth(written)
    with pytest.raises(UserError, match="nothing to compare with"):
        check_truth(written, later=True)


def test_label_maps_that_are_not_named():
    data = dict(type="ADE20KDataset", data_root="ade", data_prefix=dict(img_path="testing"))
    evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
    cfg = Config(dict(test_dataloader=dict(dataset=data), test_evaluator=evaluator))
    with pytest.raises(UserError, match=r"no annotations \(data_prefix\.seg_map_path.*format_only=True"):
        check_truth(cfg, ("test",))
    check_truth(cfg)  # a training runs no test


# ---- --data-root


def test_a_sibling_folder_with_the_same_prefix_stays():
    data = dict(type="CocoDataset", data_root="data/coco", ann_file="a.json", data_prefix=dict(img="x"))
    files = ["data/coco/v.json", "data/coco_extra/v.json", ["data/coco/a.json", "data/other/b.json"]]
    evaluators = [dict(type="CocoMetric", ann_file=file) for file in files]
    cfg = Config(dict(train_dataloader=dict(dataset=data), val_evaluator=evaluators))
    set_data_root(cfg, "/new/")
    expected = ["/new/v.json", "data/coco_extra/v.json", ["/new/a.json", "data/other/b.json"]]
    assert [evaluator.ann_file for evaluator in cfg.val_evaluator] == expected


def test_two_folders_are_not_made_one():
    parts = [
        dict(type="BaseSegDataset", data_root=root, data_prefix=dict(img_path="i", seg_map_path="m"))
        for root in ("data/berlin", "data/paris")
    ]
    cfg = Config(dict(train_dataloader=dict(dataset=dict(type="ConcatDataset", datasets=parts))))
    with pytest.raises(UserError, match="reads data/berlin and data/paris"):
        set_data_root(cfg, "/new")
