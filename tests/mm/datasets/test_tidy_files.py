"""Evaluations and lists get copies in the work folder, and only where they need one."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from convnext_dense.mm.datasets.paths import SPLITS
from convnext_dense.mm.datasets.repair import set_tolerant_data
from convnext_dense.mm.datasets.tidy_files import tidy_files
from convnext_dense.mm.datasets.transforms import BadInputError


@pytest.fixture
def coco(tmp_path):
    """One image in a folder, and a file with everything that is only written otherwise."""
    (tmp_path / "val/sub").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "val/sub/a.png"), np.zeros((30, 40, 3), np.uint8))
    content = {
        "images": [{"id": 1.0, "file_name": "sub\\a.png"}],
        "annotations": [
            {"id": 1, "image_id": "1", "category_id": 2.0, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
        ],
        "categories": [{"id": 2, "name": "nut"}],
    }
    (tmp_path / "val.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    dataset = dict(
        type="CocoDataset",
        data_root=str(tmp_path),
        ann_file="val.json",
        data_prefix=dict(img="val"),
        metainfo=dict(classes=("nut",)),
        pipeline=[dict(type="LoadImageFromFile")],
    )
    evaluator = dict(type="CocoMetric", ann_file=str(tmp_path / "val.json"))
    loaders = {f"{split}_dataloader": dict(dataset=dict(dataset)) for split in SPLITS}
    evaluators = dict(val_evaluator=evaluator, test_evaluator=[dict(evaluator)])
    return Config(dict(**loaders, **evaluators, work_dir=str(tmp_path / "run"), default_scope="mmdet"))


def built(cfg, split, strict=False):
    with DefaultScope.overwrite_default_scope("mmdet"):
        set_tolerant_data(cfg, strict)
        return DATASETS.build(cfg[f"{split}_dataloader"].dataset)


def test_a_file_of_windows_and_pandas(coco, tmp_path):
    import mmdet.datasets  # noqa: F401  registers

    before = (tmp_path / "val.json").read_bytes()
    (line,) = tidy_files(coco)
    for said in (
        "sub\\a.png",
        "taken from the file",
        "matched",
        "byte-order mark",
        "run/annotations/val.json",
    ):
        assert said in line
    copy = str(tmp_path / "run/annotations/val.json")
    assert coco.val_dataloader.dataset.ann_file == coco.test_dataloader.dataset.ann_file == copy
    assert coco.val_evaluator.ann_file == coco.test_evaluator[0].ann_file == copy
    assert coco.train_dataloader.dataset.ann_file == "val.json", "training repairs it in memory"
    assert (tmp_path / "val.json").read_bytes() == before
    assert tidy_files(coco) == [], "the copy is tidy"
    for split in ("train", "val"):
        info = built(coco, split, strict=split == "train")[0]
        assert (info["width"], info["height"]) == (40, 30)
        assert info["img"].shape == (30, 40, 3)
        assert [entry["bbox_label"] for entry in info["instances"]] == [0]


def test_a_preflight_writes_no_copy_and_reads_the_same(coco, tmp_path):
    import mmdet.datasets  # noqa: F401  registers

    assert tidy_files(coco, ()) == []
    assert built(coco, "val")[0]["img"].shape == (30, 40, 3)
    assert not (tmp_path / "run").exists()
    content = json.loads((tmp_path / "val.json").read_text(encoding="utf-8-sig"))
    content["annotations"].append(dict(content["annotations"][0], id=2, area=0))
    (tmp_path / "val.json").write_text(json.dumps(content))
    with pytest.raises(BadInputError, match="annotations without a positive area: 1") as error:
        built(coco, "test")
    assert "width" not in str(error.value), "of what means the same, nothing is said here"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"img 1\nimg 2\n", None),
        (b"\xef\xbb\xbfimg 1\r\nimg 2", "byte-order mark"),
        (b"img 1\n\nimg 2\n", "empty lines"),
        (b"sub\\img 1\nimg 2\n", "first sub\\img 1, found there"),
    ],
)
def test_lists_of_names_against_mmseg(tmp_path, text, said):
    from mmseg.datasets import BaseSegDataset

    names = [name.strip() for name in text.decode("utf-8-sig").replace("\\", "/").split("\n")]
    for name in filter(None, names):
        path = tmp_path / f"images/{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "train.txt").write_bytes(text)
    data = dict(
        type="BaseSegDataset",
        data_root=str(tmp_path),
        ann_file="train.txt",
        data_prefix=dict(img_path="images", seg_map_path="maps"),
        metainfo=dict(classes=("a", "b")),
        img_suffix=".jpg",
    )
    cfg = Config(dict(train_dataloader=dict(dataset=data), work_dir=str(tmp_path / "run")))
    with DefaultScope.overwrite_default_scope("mmseg"):
        lines = tidy_files(cfg)
    assert len(lines) == (said is not None)
    assert said is None or said in lines[0]
    own = dict(cfg.train_dataloader.dataset)
    own.pop("type")
    paths = [entry["img_path"] for entry in BaseSegDataset(**own, pipeline=[])]
    assert [Path(path).is_file() for path in paths] == [True, True]
