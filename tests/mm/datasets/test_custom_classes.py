"""The user's own classes reach every place of a config, and faulty data end in one message."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image
from repository import ROOT

from convnext_dense.errors import UserError
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.datasets import detection_data, segmentation_data
from convnext_dense.mm.datasets.custom_classes import set_own_data
from convnext_dense.mm.datasets.paths import datasets_of, set_data_root
from convnext_dense.mm.errors import explain


def entries(node: object, key: str) -> list:
    """Every value of ``key`` below ``node``."""
    if isinstance(node, dict):
        return [value for name, value in node.items() if name == key] + [
            found for value in node.values() for found in entries(value, key)
        ]
    return [found for item in node for found in entries(item, key)] if isinstance(node, list | tuple) else []


# ---- segmentation


@pytest.fixture
def streets(tmp_path) -> Path:
    """Three classes in ADE20K's layout: 2 + 1 pairs of 40x32."""
    rng = np.random.default_rng(0)
    for split, count in (("training", 2), ("validation", 1)):
        for kind in ("images", "annotations"):
            (tmp_path / kind / split).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 255, (32, 40, 3), np.uint8)).save(
                tmp_path / f"images/{split}/{i}.png"
            )
            labels = rng.integers(0, 3, (32, 40), np.uint8)
            labels[:4] = 255
            Image.fromarray(labels).save(tmp_path / f"annotations/{split}/{i}.png")
    return tmp_path


def segmentor(root: Path, recipe: str = "upernet/convnext_t_512_160k") -> Config:
    cfg = load_config(recipe)
    set_data_root(cfg, str(root))
    return cfg


def test_classes_reach_heads_datasets_and_pipelines(streets):
    cfg = segmentor(streets)
    assert any(entries(cfg._cfg_dict, "reduce_zero_label")), "the recipe itself leaves 0 out"
    (note,) = set_own_data(cfg, "sky,road,car")
    assert note == (
        "3 classes: value 0 of the label maps is sky, 2 is car, 255 is ignored (reduce_zero_label=False)"
    )
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == 3
    for data in datasets_of(cfg):
        assert (data.type, data.reduce_zero_label, data.img_suffix) == ("BaseSegDataset", False, ".png")
        assert tuple(data.metainfo.classes) == ("sky", "road", "car")
    assert set(entries(cfg._cfg_dict, "reduce_zero_label")) == {False}


def test_the_dataset_reads_the_values_as_they_are(streets):
    from mmengine.registry import DefaultScope
    from mmseg.registry import DATASETS

    cfg = segmentor(streets)
    set_own_data(cfg, "sky,road,car")
    with DefaultScope.overwrite_default_scope("mmseg"):
        dataset = DATASETS.build(cfg.val_dataloader.dataset)
        read = dataset[0]["data_samples"].gt_sem_seg.data[0].numpy()
    stored = np.asarray(Image.open(streets / "annotations/validation/0.png"))
    assert len(dataset) == 1
    assert np.array_equal(read, stored)


def test_a_list_of_auxiliary_heads(streets):
    cfg = segmentor(streets)
    cfg.model.auxiliary_head = [dict(cfg.model.auxiliary_head), dict(cfg.model.auxiliary_head)]
    set_own_data(cfg, "sky,road,car")
    assert [head.num_classes for head in cfg.model.auxiliary_head] == [3, 3]


def test_metainfo_in_the_config_is_enough(streets):
    cfg = segmentor(streets, "demo/upernet_shapes")
    for data in datasets_of(cfg):
        data.update(metainfo=dict(classes=("sky", "road", "car")), img_suffix=".png", reduce_zero_label=False)
    with pytest.raises(UserError, match=r"3 classes and decode_head\.num_classes is 4"):
        set_own_data(cfg, None)
    cfg.model.decode_head.num_classes = 3
    assert set_own_data(cfg, None) == []


def spoil_value(root: Path) -> None:
    for name in "01":
        Image.fromarray(np.full((32, 40), 3, np.uint8)).save(root / f"annotations/training/{name}.png")


def spoil_size(root: Path) -> None:
    Image.fromarray(np.zeros((40, 32), np.uint8)).save(root / "annotations/validation/0.png")


def empty(root: Path) -> None:
    for path in (root / "images/validation").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (
            spoil_value,
            "label maps with wrong values: 2, first {root}/annotations/training/0.png (3); 3 classes",
        ),
        (spoil_size, "another size than their image: 1, first {root}/annotations/validation/0.png (32x40"),
        (
            lambda root: (root / "annotations/training/1.png").unlink(),
            "images without a label map: 1, first {root}/images/training/1.png",
        ),
        (
            lambda root: (root / "images/training/0.png").unlink(),
            "label maps without an image: 1, first {root}/annotations/training/0.png",
        ),
        (empty, "folder without any *.jpg: 1, first {root}/images/validation (it is empty)"),
    ],
)
def test_faulty_label_maps_stop_the_run(streets, spoil, expected):
    spoil(streets)
    with pytest.raises(UserError) as error:
        set_own_data(segmentor(streets), "sky,road,car")
    assert expected.format(root=streets) in str(error.value)
    assert explain(error.value).startswith("the data cannot be used:\n")


def test_the_wrong_reading_of_zero_is_found_without_classes_too(streets):
    cfg = segmentor(streets, "demo/upernet_shapes")  # 0 unlabelled, classes 1 to 4
    for data in datasets_of(cfg):
        data["img_suffix"] = ".png"
    spoiled = Image.fromarray(np.full((32, 40), 5, np.uint8))
    spoiled.save(streets / "annotations/training/0.png")
    with pytest.raises(UserError, match=r"0\.png \(5\); 4 classes have the values 1 to 4"):
        set_own_data(cfg, None)


def test_large_data_are_sampled_in_time_and_the_note_says_so(streets, monkeypatch):
    monkeypatch.setattr(segmentation_data, "CHECK_SECONDS", -1.0)
    notes = set_own_data(segmentor(streets), "sky,road,car")
    assert notes[1] == "data: names of 3 label maps checked, contents of 0 drawn at random"


@pytest.mark.parametrize(
    ("classes", "message"), [("sky", "one class"), ("a,a", "more than once"), ("x.json", "cannot read class")]
)
def test_bad_classes_are_user_errors(streets, classes, message):
    with pytest.raises(UserError, match=message):
        set_own_data(segmentor(streets), classes)


def test_the_command_lines_train_and_test_on_own_classes(streets, tmp_path):
    (tmp_path / "classes.json").write_text('["sky", "road", "car"]')
    small = [
        "train_cfg.max_iters=1",
        "train_cfg.val_interval=1",
        "default_hooks.checkpoint.interval=1",
        "train_dataloader.batch_size=2",
        "model.backbone.arch.depths=[1,1,1,1]",
    ]
    common = ["--data-root", str(streets), "--classes", "classes.json", "--device", "cpu"]
    recipe = "demo/upernet_shapes"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def run(tool: str, *args: str) -> str:
        command = [sys.executable, str(ROOT / f"tools/{tool}.py"), recipe, *args, *common]
        done = subprocess.run(
            [*command, "--cfg-options", *small], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    output = run("train", "--work-dir", "run")
    assert "3 classes: value 0 of the label maps is sky" in output
    assert "|  road " in output
    run("test", "run/iter_1.pth", "--out", "m.json")
    assert 0 <= json.loads((tmp_path / "m.json").read_text())["mIoU"] <= 100


def test_a_class_that_the_config_ignores_is_refused(streets):
    with pytest.raises(UserError, match=r"ignores 11 \(ignore_index\), which is c11"):
        set_own_data(segmentor(streets, "demo/camvid"), ",".join(f"c{i}" for i in range(12)))


# ---- detection


def write_coco(root: Path, train: list[str], val: list[str] | None = None) -> None:
    for split, names in (("train2017", train), ("val2017", train if val is None else val)):
        (root / split).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((36, 48, 3), np.uint8)).save(root / split / "1.jpg")
        box = dict(bbox=[4, 4, 20, 20], area=400, iscrowd=0, segmentation=[[4, 4, 24, 4, 24, 24, 4, 24]])
        content = dict(
            images=[dict(id=1, file_name="1.jpg", width=48, height=36)],
            annotations=[dict(id=i + 1, image_id=1, category_id=100 - i, **box) for i in range(len(names))],
            categories=[dict(id=100 - i, name=name) for i, name in enumerate(names)],
        )
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))


def detector(root: Path, recipe: str) -> Config:
    cfg = load_config(recipe)
    set_data_root(cfg, str(root))
    return cfg


@pytest.mark.parametrize("recipe", ["mask_rcnn/convnext_t_3x", "cascade/convnext_t_3x"])
def test_the_heads_follow_the_annotation_file(tmp_path, recipe):
    write_coco(tmp_path, ["nut", "bolt", "gear"])
    cfg = detector(tmp_path, recipe)
    before = entries(cfg.model, "num_classes")
    (note,) = set_own_data(cfg, None)
    assert note.startswith("3 classes in the order of ") and note.endswith("nut, bolt, gear")
    assert set(before) == {80} and set(entries(cfg.model, "num_classes")) == {3}
    assert len(entries(cfg.model, "num_classes")) == len(before) > 1
    assert {tuple(data.metainfo.classes) for data in datasets_of(cfg)} == {("nut", "bolt", "gear")}


def test_names_and_labels_agree_whatever_the_order_asked_for(tmp_path):
    """mmdet numbers by the order of the file; category ids here fall from 100."""
    from mmdet.registry import DATASETS
    from mmengine.registry import DefaultScope

    write_coco(tmp_path, ["nut", "bolt", "gear"])
    cfg = detector(tmp_path, "mask_rcnn/convnext_t_3x")
    set_own_data(cfg, "gear,nut")
    with DefaultScope.overwrite_default_scope("mmdet"):
        dataset = DATASETS.build(cfg.val_dataloader.dataset)
    names = dict(zip(dataset.cat_ids, dataset.metainfo["classes"], strict=True))
    assert names == {100: "nut", 98: "gear"}


def test_cocos_own_categories_leave_the_config_alone(tmp_path):
    from mmdet.datasets import CocoDataset

    write_coco(tmp_path, list(CocoDataset.METAINFO["classes"]))
    cfg = detector(tmp_path, "cascade/convnext_t_3x")
    before = cfg.to_dict()
    assert set_own_data(cfg, None) == []
    assert cfg.to_dict() == before


@pytest.mark.parametrize(
    ("train", "val", "classes", "message"),
    [
        (["nut", "bolt"], None, "nut,cog", r"instances_train2017\.json has no category 'cog' \(1 of 2"),
        (["nut", "bolt"], ["nut"], None, "'bolt' is in one of them only"),
        (["nut", "bolt"], ["bolt", "nut"], None, "the same names in another order"),
        (["nut", "nut"], None, None, "'nut' more than once"),
    ],
)
def test_categories_that_do_not_fit_are_user_errors(tmp_path, train, val, classes, message):
    write_coco(tmp_path, train, val)
    with pytest.raises(UserError, match=message):
        set_own_data(detector(tmp_path, "mask_rcnn/convnext_t_3x"), classes)


def test_more_classes_than_coco_have_a_colour_each(tmp_path):
    write_coco(tmp_path, [f"c{i}" for i in range(90)])
    cfg = detector(tmp_path, "mask_rcnn/convnext_t_3x")
    set_own_data(cfg, None)
    assert {len(data.metainfo.palette) for data in datasets_of(cfg)} == {90}


def test_heads_that_contradict_the_configs_own_classes_follow(tmp_path):
    write_coco(tmp_path, ["nut", "bolt"])
    cfg = detector(tmp_path, "cascade/convnext_t_3x")
    for data in datasets_of(cfg):
        data.metainfo = dict(classes=("nut", "bolt"))
    set_own_data(cfg, None)
    assert set(entries(cfg.model, "num_classes")) == {2}


def test_missing_images_are_reported_before_training(tmp_path):
    write_coco(tmp_path, ["nut", "bolt"])
    (tmp_path / "train2017/1.jpg").unlink()
    cfg = detector(tmp_path, "mask_rcnn/convnext_t_3x")
    with pytest.raises(UserError, match=r"that are not there: 1, first .*train2017/1\.jpg"):
        set_own_data(cfg, None)
    assert set_own_data(detector(tmp_path, "mask_rcnn/convnext_t_3x"), None, ("test",)), "val is complete"


def test_a_large_annotation_file_is_not_parsed(tmp_path, monkeypatch):
    write_coco(tmp_path, ["nut", "bolt"])
    (tmp_path / "train2017/1.jpg").unlink()
    monkeypatch.setattr(detection_data, "COCO_BYTES", 10)
    notes = set_own_data(detector(tmp_path, "mask_rcnn/convnext_t_3x"), None)
    assert (
        notes[1] == "data: entries of instances_train2017.json, instances_val2017.json not checked, too large"
    )


@pytest.mark.parametrize("head", [(0.5, 2.0), [], "FCNHead"])
def test_a_decode_head_that_is_no_mapping_is_named(head):
    with pytest.raises(UserError, match=r"model\.decode_head is .*; write a mapping with a type"):
        segmentation_data.last_head(Config(dict(model=dict(decode_head=head))))
