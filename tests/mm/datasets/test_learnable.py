"""Runs that cannot learn what was asked stop at their start, and in the preflight, with the same line."""

import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from convnext_dense.errors import UserError
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.datasets.custom_classes import set_own_data
from convnext_dense.mm.datasets.paths import datasets_of, set_data_root
from convnext_dense.mm.preflight.data import check_everything
from convnext_dense.reports.preflight import Report


def in_preflight(cfg: Config) -> list[str]:
    lines: list[str] = []
    report = Report(lines.append)
    usable = check_everything(cfg, False, report, bar=False)
    assert not usable
    return lines


def maps(root: Path, values: tuple[int, ...]) -> Config:
    """A segmentor of two classes; every map has ``values``, those of validation 0 and 1."""
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(root / f"images/{split}/a.jpg")
        numbers = np.resize(np.array(values if split == "training" else (0, 1), np.uint8), (32, 32))
        Image.fromarray(numbers).save(root / f"annotations/{split}/a.png")
    cfg = load_config("demo/upernet_shapes")
    set_data_root(cfg, str(root))
    return cfg


def test_binary_masks_with_255(tmp_path):
    cfg = maps(tmp_path, (0, 255))
    said = r"^nothing to learn: 1 of 2 classes occur in none of the 1 label maps .*: thing \(value 1\); 255"
    with pytest.raises(UserError, match=said):
        set_own_data(cfg, "background,thing")
    cfg = maps(tmp_path / "again", (0, 255))
    set_own_data(cfg, "background,thing", splits=())
    assert any("nothing to learn: 1 of 2 classes" in line for line in in_preflight(cfg))


def test_a_class_without_pixels_is_a_note(tmp_path):
    notes = set_own_data(maps(tmp_path, (0, 1)), "background,thing,sky")
    (note,) = [note for note in notes if "occur in none" in note and "training" in note]
    assert note.startswith("1 of 3 classes") and "sky (value 2)" in note


# ---- detection


def boxes(
    root: Path, filter_cfg: dict | None = None, categories: tuple[str, ...] = ("nut",), **entries
) -> Config:
    """The demo's detector of shapes on one image per split; training annotations have ``entries``."""
    for split in ("train2017", "val2017"):
        (root / split).mkdir(parents=True)
        Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(root / split / "1.jpg")
        outline = [[4, 4, 24, 4, 24, 24, 4, 24]]
        box = dict(id=1, image_id=1, category_id=1, bbox=[4, 4, 20, 20], area=400, iscrowd=0)
        annotation = {**box, "segmentation": outline, **(entries if split == "train2017" else {})}
        content = dict(
            images=[dict(id=1, file_name="1.jpg", width=64, height=48)],
            annotations=[annotation],
            categories=[dict(id=i + 1, name=name) for i, name in enumerate(categories)],
        )
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    cfg = load_config("demo/mask_rcnn_shapes")
    set_data_root(cfg, str(root))
    for data in datasets_of(cfg):
        data.pop("metainfo")
    cfg.train_dataloader.dataset.filter_cfg = filter_cfg
    return cfg


@pytest.mark.parametrize(
    ("case", "classes", "said"),
    [
        (dict(segmentation=[]), None, "1 without a usable mask (segmentation); give outlines"),
        (dict(iscrowd=1), None, "1 crowds (iscrowd)"),
        (dict(filter_cfg=dict(filter_empty_gt=True, min_size=200)), None, "min_size=200 of filter_cfg"),
        (
            dict(categories=("nut", "bolt")),
            "bolt",
            "1 of other categories (nut); the classes asked for are bolt",
        ),
    ],
)
def test_annotations_that_cannot_be_trained_on(tmp_path, case, classes, said):
    with pytest.raises(UserError) as error:
        set_own_data(boxes(tmp_path, **case), classes, strict=False)
    assert "nothing to learn from" in str(error.value) and said in str(error.value)
    cfg = boxes(tmp_path / "again", **case)
    set_own_data(cfg, classes, splits=(), strict=False)
    assert any(said in line for line in in_preflight(cfg))


def test_a_class_without_an_object_is_a_note(tmp_path):
    notes = set_own_data(boxes(tmp_path, categories=("nut", "bolt")), None)
    assert any(note.startswith("1 of 2 classes have no annotation to train on") for note in notes)


def test_an_evaluation_without_annotations_stops_the_training(tmp_path):
    cfg = boxes(tmp_path)
    path = tmp_path / "annotations/instances_val2017.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": []}))
    with pytest.raises(UserError, match=r"nothing to compare with: .*val2017\.json has no annotations"):
        set_own_data(cfg, None)
