"""Training continues and reports planted bad files and annotations; evaluation and --strict-data stop."""

import copy
import json
import logging
import multiprocessing
import pickle
import random
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, RUNNERS, TRANSFORMS, DefaultScope
from PIL import Image
from torch.utils.data import DataLoader

from convnext_dense.data.synthetic import make_shapes
from convnext_dense.mm.config.edit import STEP_LOOPS
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.datasets import checked_dataset
from convnext_dense.mm.datasets.paths import set_data_root
from convnext_dense.mm.datasets.repair import set_tolerant_data, tolerate_bad_data
from convnext_dense.mm.datasets.transforms import BadInputError
from convnext_dense.mm.errors import explain

RECIPES = {"coco": "demo/mask_rcnn_shapes", "ade20k": "demo/upernet_shapes"}
IMAGES = {"coco": "train2017", "ade20k": "images/training"}
MAPS = "annotations/training"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("scenes") / "shapes"
    make_shapes(root, train=8, val=2, size=96)
    return root


@pytest.fixture
def shapes(scenes, tmp_path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(scenes, tmp_path / "shapes"))


def config(shapes: Path, layout: str, workers: int = 0, steps: int = 4, **train_cfg) -> Config:
    cfg = load_config(RECIPES[layout])
    set_data_root(cfg, str(shapes / layout))
    cfg.train_dataloader.update(batch_size=2, num_workers=workers, persistent_workers=workers > 0)
    cfg.train_cfg = {"type": "IterBasedTrainLoop", "max_iters": steps, "val_interval": 99, **train_cfg}
    cfg.work_dir = str(shapes.parent / "run")
    cfg.runner_type = "DenseRunner"
    cfg.default_hooks.logger.interval = 1
    cfg.default_hooks.checkpoint.interval = 99
    if cfg.train_cfg.val_interval > steps:
        cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    if layout == "coco":
        cfg.train_dataloader.dataset.pipeline[2].scale = (64, 64)
    else:
        cfg.model.data_preprocessor.size = (96, 96)
    return cfg


def trained(cfg: Config, strict: bool = False) -> str:
    """Train, and return the log file."""
    runner = RUNNERS.build(cfg)
    try:
        tolerate_bad_data(runner, strict)
        runner.train()
    finally:
        logging.shutdown()
        for worker in multiprocessing.active_children():
            worker.terminate()  # each would need five seconds to notice that its loader is gone
    (log,) = Path(cfg.work_dir).glob("*/*.log")
    return log.read_text()


def built(cfg: Config, split: str = "train", strict: bool = False):
    """The data set of a split, as a runner would build it."""
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope", "mmdet")):
        set_tolerant_data(cfg, strict)
        return DATASETS.build(copy.deepcopy(cfg[f"{split}_dataloader"]).dataset)  # a runner copies it, too


def image(shapes: Path, layout: str, number: int) -> Path:
    return shapes / layout / IMAGES[layout] / f"{number:012d}.jpg"


def label_map(shapes: Path, number: int) -> Path:
    return shapes / "ade20k" / MAPS / f"{number:012d}.png"


def annotations(shapes: Path, split: str = "train") -> Path:
    return shapes / f"coco/annotations/instances_{split}2017.json"


def edit(path: Path, change) -> dict:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return content


# ---- whole runs


def plant_images(shapes: Path, layout: str) -> dict[str, str]:
    """Damage five of eight samples; return bad file -> what is said about it."""
    paths = [image(shapes, layout, number) for number in range(1, 6)]
    paths[0].write_bytes(paths[0].read_bytes()[:1000])
    paths[1].write_bytes(b"")
    paths[2].write_bytes(b"<html>not found</html>")
    cv2.imwrite(str(paths[4]), cv2.imread(str(paths[4]))[:-7])
    if layout == "ade20k":  # whose images are those in the folder
        paths[3:] = [label_map(shapes, 4), label_map(shapes, 5)]
    paths[3].unlink()
    said = ["truncated", "the file is empty", "not an image file", "No such file", "96x89"]
    return {str(path): reason for path, reason in zip(paths, said, strict=True)}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("layout", RECIPES)
def test_training_continues_and_names_every_file_once(shapes, layout, workers):
    planted = plant_images(shapes, layout)
    log = trained(config(shapes, layout, workers, steps=6))
    assert re.search(r"Iter\(train\) \[6/6\].* loss: \d", log)
    warnings = [line for line in log.splitlines() if "another image takes its place" in line]
    assert len(warnings) == len(planted), "once each, though 12 samples were drawn of 8 images"
    for path, reason in planted.items():
        (line,) = [line for line in warnings if path in line]
        assert reason in line
        assert layout == "ade20k" or f"(id {int(Path(path).stem)})" in line
    assert "5 images could not be used and were replaced by others: first " in log
    listed = (Path(shapes.parent) / "run/bad_input.txt").read_text().splitlines()
    assert len(listed) == 5
    (dumped,) = (shapes.parent / "run").glob("*.py")
    assert "LoadImageFromFile" in dumped.read_text()
    assert "Checked" not in dumped.read_text(), "the config stays the user's own"


@pytest.mark.parametrize(("layout", "workers"), [("coco", 2), ("ade20k", 0)])
def test_strict_data_stops_with_file_and_id(shapes, layout, workers):
    path = image(shapes, layout, 3)
    path.write_bytes(b"")
    cfg = config(shapes, layout, workers, steps=8)
    with pytest.raises(BadInputError) as error:
        trained(cfg, strict=True)
    number = " (id 3)" if layout == "coco" else ""
    assert explain(error.value) == f"image {path}{number}: the file is empty"


def test_a_step_of_several_batches_reports_all_of_them(shapes):
    planted = plant_images(shapes, "coco")
    loop = dict(type=STEP_LOOPS["IterBasedTrainLoop"], accumulate=3)
    log = trained(config(shapes, "coco", steps=2, **loop))
    assert all(path in log for path in planted)


@pytest.mark.parametrize("layout", RECIPES)
def test_evaluation_leaves_no_image_out(shapes, layout):
    folder = "val2017" if layout == "coco" else "images/validation"
    path = shapes / layout / folder / f"{2:012d}.jpg"
    path.write_bytes(path.read_bytes()[:900])
    dataset = built(config(shapes, layout, val_interval=1), "val")
    assert len(dataset) == 2
    assert dataset[0]["inputs"].shape[0] == 3
    loader = DataLoader(dataset, num_workers=1, collate_fn=list)
    with pytest.raises(BadInputError, match=rf"^image {path}.*: image file is truncated") as error:
        list(loader)
    assert "\n" not in explain(error.value)


def test_a_set_without_one_good_image_ends(shapes):
    for number in range(1, 9):
        image(shapes, "ade20k", number).write_bytes(b"")
    dataset = built(config(shapes, "ade20k"))
    with pytest.raises(BadInputError, match=r"no usable image in 50 draws, the last of them: image .*empty"):
        dataset[0]


# ---- what takes a bad image's place


def test_the_replacement_depends_on_the_seed_alone(shapes):
    image(shapes, "coco", 1).write_bytes(b"")
    dataset = built(config(shapes, "coco"))
    taken = []
    for seed in (0, 0, *range(1, 6)):
        np.random.seed(seed)
        taken.append(dataset[0]["data_samples"].img_id)
    assert taken[0] == taken[1]
    assert len(set(taken)) > 2
    assert 1 not in taken


def test_below_wrappers(shapes):
    """The datasets that mmengine and mmdet put around others get no wrapper of ours."""
    bad = image(shapes, "coco", 1)
    bad.write_bytes(b"")
    cfg = config(shapes, "coco")
    leaf = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(
        type="RepeatDataset", times=2, dataset=dict(type="ConcatDataset", datasets=[leaf, leaf])
    )
    dataset = built(cfg)
    set_tolerant_data(cfg)  # a second call changes nothing
    assert len(dataset) == 4 * 8
    assert type(dataset.dataset.datasets[0]).__name__ == "CocoDataset"
    dataset = pickle.loads(pickle.dumps(dataset))  # as workers that are not forked receive it
    for index in (0, 8, 16, 24):
        sample = dataset[index]["data_samples"]
        assert sample.img_id != 1
        assert sample.bad_input[0][0] == str(bad)


def test_mixed_images_report_in_the_mixture(shapes):
    bad = image(shapes, "coco", 1)
    bad.write_bytes(b"")
    cfg = config(shapes, "coco")
    leaf = cfg.train_dataloader.dataset
    end, leaf.pipeline = leaf.pipeline[2:], leaf.pipeline[:2]
    for step in leaf.pipeline:
        step.pop("with_mask", None)
    cfg.train_dataloader.dataset = dict(
        type="MultiImageMixDataset", dataset=leaf, pipeline=[dict(type="Mosaic", img_scale=(64, 64)), *end]
    )
    dataset = pickle.loads(pickle.dumps(built(cfg)))  # as workers that are not forked receive it
    np.random.seed(0)
    sample = dataset[0]["data_samples"]
    assert {path for path, _ in sample.bad_input} == {str(bad)}
    reported = []
    for index in range(1, 8):  # none of them is the bad one, which may be mixed into it
        random.seed(index)
        reported.append(dataset[index]["data_samples"].metainfo.get("bad_input"))
    assert {path for notes in reported if notes for path, _ in notes} == {str(bad)}
    assert None in reported, "a note is in one sample alone"


def test_other_loaders_are_left_alone(shapes):
    cfg = config(shapes, "coco")
    cfg.train_dataloader.dataset.pipeline[0] = dict(type="LoadImageFromNDArray")
    assert set_tolerant_data(cfg).endswith("; CocoDataset not checked: no LoadImageFromFile in the pipeline")


# ---- pictures and annotations together


def test_boxes_fit_a_picture_that_exif_would_turn(tmp_path):
    """An object that fills the left third: the box must fit it in both orientations of the annotation."""
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[:, :30] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees to the right
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    load = TRANSFORMS.build(dict(type="LoadCheckedImage"))
    for width, height, (x, y, w, h) in ((90, 60, (0, 0, 30, 60)), (60, 90, (0, 0, 60, 30))):
        results = load(dict(img_path=str(tmp_path / "a.jpg"), width=width, height=height))
        inside = np.zeros((height, width), bool)
        inside[y : y + h, x : x + w] = True
        assert results["ori_shape"] == results["img_shape"] == (height, width)
        assert results["img"][inside].mean() > 245
        assert results["img"][~inside].mean() < 10
    with pytest.raises(BadInputError, match="it has 60x90 pixels, but was annotated at 90x61"):
        load(dict(img_path=str(tmp_path / "a.jpg"), width=90, height=61))


@pytest.mark.parametrize("turned", [False, True])
def test_a_label_map_and_its_picture_are_turned_together_or_not_at_all(tmp_path, turned):
    labels = np.zeros((60, 90), np.uint8)
    labels[:, :30] = 7
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(labels * 36).convert("RGB").save(tmp_path / "a.jpg", exif=exif, quality=95)
    Image.fromarray(np.rot90(labels, -1) if turned else labels).save(tmp_path / "a.png")
    results = dict(
        img_path=str(tmp_path / "a.jpg"),
        seg_map_path=str(tmp_path / "a.png"),
        reduce_zero_label=False,
        label_map=None,
        seg_fields=[],
    )
    with DefaultScope.overwrite_default_scope("mmseg"):
        load = TRANSFORMS.build(dict(type="LoadCheckedAnnotations", loader=dict(type="LoadAnnotations")))
    results = load(TRANSFORMS.build(dict(type="LoadCheckedImage"))(results))
    assert results["img"].shape[:2] == ((90, 60) if turned else (60, 90))
    assert np.array_equal(results["img"][..., 0] > 128, results["gt_seg_map"] == 7)


@pytest.mark.parametrize("scope", ["mmseg", "mmdet"])
@pytest.mark.parametrize("reduce_zero_label", [False, True])
@pytest.mark.parametrize("label_map", [None, {0: 2, 1: 255, 2: 0, 3: 1}])
def test_class_numbers_are_those_of_the_toolbox(tmp_path, scope, reduce_zero_label, label_map):
    """The toolboxes' own loaders are the reference, on a grey map that they read correctly."""
    numbers = np.random.default_rng(0).choice([0, 1, 2, 3, 4, 254, 255], (20, 30)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), numbers)
    loader = dict(type=f"{scope}.LoadAnnotations")
    if scope == "mmdet":
        loader.update(with_bbox=False, with_label=False, with_seg=True, reduce_zero_label=reduce_zero_label)
    read = []
    for transform in (loader, dict(type="LoadCheckedAnnotations", loader=loader)):
        results = dict(
            img_path="a.jpg",
            seg_map_path=str(tmp_path / "a.png"),
            ori_shape=(20, 30),
            label_map=label_map,
            **(dict(reduce_zero_label=reduce_zero_label, seg_fields=[]) if scope == "mmseg" else {}),
        )
        read.append(TRANSFORMS.build(transform)(results))
    expected, ours = (dict(results) for results in read)
    assert np.array_equal(ours.pop("gt_seg_map"), expected.pop("gt_seg_map"))
    assert ours == expected, "and the same entries beside it"


def spoil_map(path: Path, how: str) -> str:
    """Damage a label map; return what is said about it."""
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if how == "broken":
        path.write_bytes(path.read_bytes()[:60])
        return "."
    if how == "empty":
        path.write_bytes(b"")
        return "the file is empty"
    if how == "missing":
        path.unlink()
        return "No such file"
    other = {
        "size": (labels[:-3], "it has 96x93 pixels, its image 96x96"),
        "rgb": (np.dstack([labels] * 3), "it is RGB; a label map has one channel"),
        "16 bit": (labels.astype(np.uint16) + 1000, "the class number 100"),
    }
    cv2.imwrite(str(path), other[how][0])
    return other[how][1]


@pytest.mark.parametrize("how", ["broken", "empty", "missing", "size", "rgb", "16 bit"])
def test_a_bad_label_map_drops_its_image_or_stops(shapes, how):
    path = label_map(shapes, 2)
    reason = spoil_map(path, how)
    dataset = built(config(shapes, "ade20k"))
    sample = dataset[1]["data_samples"]
    ((dropped, message),) = sample.bad_input
    assert dropped == str(path)
    assert message.startswith(f"label map {path} of image {image(shapes, 'ade20k', 2)}: ")
    assert re.search(reason, message)
    assert sample.img_path != str(image(shapes, "ade20k", 2))
    with pytest.raises(BadInputError, match=re.escape(message)):
        built(config(shapes, "ade20k"), strict=True)[1]


@pytest.mark.parametrize("kind", ["palette", "16 bit"])
def test_label_maps_of_other_kinds_are_read_right(shapes, kind):
    path = label_map(shapes, 2)
    before = built(config(shapes, "ade20k"))[1]["data_samples"].gt_sem_seg.data
    labels = Image.open(path)
    stored = np.asarray(labels)
    if kind == "palette":
        labels = labels.convert("P")
        labels.putdata(stored.ravel())
        labels.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9, 80, 80, 80])
        labels.save(path)
    else:
        cv2.imwrite(str(path), stored.astype(np.uint16))
    cfg = config(shapes, "ade20k")
    cfg.train_dataloader.dataset.pipeline[2].prob = 0.0
    again = built(cfg)[1]["data_samples"].gt_sem_seg.data
    assert sorted(again.unique().tolist()) == sorted(before.unique().tolist())
    expected = np.where(stored == 0, 255, stored - 1)[None]
    assert np.array_equal(again.numpy(), expected)


# ---- annotation files


def plant_annotations(content: dict) -> None:
    """One fault of each kind that a file can have."""
    images, entries = content["images"], content["annotations"]
    triangle = [[10, 10, 40, 10, 20, 40]]
    new = dict(image_id=1, category_id=1, area=450, iscrowd=0, segmentation=triangle, bbox=[10, 10, 30, 30])
    flat = [96 * 96 - 100, 100]
    entries += [
        {**new, "id": 901, "bbox": [-20, -20, 60, 60]},
        {**new, "id": 902, "bbox": [500, 500, 9, 9]},
        {**new, "id": 903, "segmentation": [[10, 10, 20, 20]]},
        {**new, "id": 904, "segmentation": {"size": [96, 96], "counts": flat}},
        {**new, "id": 905, "segmentation": {"size": [96, 96], "counts": flat}, "iscrowd": 1},
        {**new, "id": 906, "segmentation": {"size": [96, 96], "counts": [7]}},
        {**new, "id": 907, "category_id": 77},
        {**new, "id": 908, "image_id": 7777},
        {**new, "id": 904, "bbox": [11, 11, 20, 20]},
        {**new, "id": 909, "bbox": [10, 10, float("nan"), 30]},
        {**new, "id": 910, "bbox": [10, 10, 0, 0], "segmentation": []},
    ]
    for number, key in enumerate(("bbox", "area"), 911):
        entries.append({**new, "id": number})
        del entries[-1][key]
    images.append(dict(images[1]))
    del images[2]["width"]


def test_faults_of_the_file_are_named_and_training_continues(shapes):
    edit(annotations(shapes), plant_annotations)
    log = trained(config(shapes, "coco", workers=2, steps=4))
    assert re.search(r"Iter\(train\) \[4/4\].* loss: \d", log)
    for line in (
        "images listed twice: 1, first image 2 (000000000002.jpg); taken once",
        "images without width and height: 1, first image 3 (000000000003.jpg); taken from the file",
        "annotations of an unknown image: 1, first annotation 908 (image 7777); left out",
        "annotations without a known category: 1, first annotation 907 (image 1, 000000000001.jpg); left out",
        "annotations without an id of their own: 1, first annotation 904 (",
        "boxes missing or empty beside a good outline: 2, first annotation 909 (",
        "boxes without width or height: 1, first annotation 910 (",
        "boxes outside their image: 1, first annotation 902 (",
        "boxes that reach over the border of their image: 1, first annotation 901 (",
        "annotations without a positive area: 1, first annotation 912 (",
        "polygons of fewer than three points or with wrong coordinates: 1, first annotation 903 (",
        "masks (RLE) that do not describe their image: 1, first annotation 906 (",
        "annotations without a usable mask: 2, first annotation 903 (",
    ):
        assert log.count(f"{annotations(shapes)}: {line}") == 1, line


def test_what_is_trained_of_a_faulty_file(shapes):
    count = len(json.loads(annotations(shapes).read_text())["annotations"])
    clean = built(config(shapes, "coco"))
    assert sum(len(clean.get_data_info(i)["instances"]) for i in range(8)) == count
    edit(annotations(shapes), plant_annotations)
    cfg = config(shapes, "coco")
    cfg.train_dataloader.dataset.pipeline[2].scale = (96, 96)
    cfg.train_dataloader.dataset.pipeline[3].prob = 0.0
    dataset = built(cfg)
    assert len(dataset) == 8
    first = dataset.get_data_info(0)["instances"]
    own = len(clean.get_data_info(0)["instances"])
    added = first[own:]
    assert [instance["bbox"] for instance in added] == [
        [0, 0, 40, 40],
        [10, 10, 40, 40],
        [10, 10, 40, 40],
        [10, 10, 40, 40],
        [10, 10, 40, 40],
        [11, 11, 31, 31],
        [10, 10, 40, 40],
        [10, 10, 40, 40],
        [10, 10, 40, 40],
    ]
    assert [instance["ignore_flag"] for instance in added] == [0, 1, 0, 1, 1, 0, 0, 0, 0]
    sample = dataset[0]["data_samples"]
    assert len(sample.ignored_instances) == 3
    rle = sample.gt_instances.masks.masks[own + 1]
    assert rle.sum() == 100, "run lengths of a plain annotation are trained"
    assert rle[-4:, -1].all(), "and count down the columns"


def test_strict_data_lists_the_faults_of_the_file(shapes):
    edit(annotations(shapes), plant_annotations)
    with pytest.raises(BadInputError) as error:
        built(config(shapes, "coco"), strict=True)
    line = explain(error.value)
    assert line.startswith(f"{annotations(shapes)}: images listed twice: 1, first image 2 (")
    assert "annotation 901 (image 1, 000000000001.jpg)" in line
    assert "left out" not in line, "nothing was"
    assert "\n" not in line


def test_evaluation_stops_for_what_would_spoil_its_figures(shapes):
    path = annotations(shapes, "val")

    def harmless(content: dict) -> None:
        content["annotations"][0]["bbox"] = [-9, -9, 50, 50]

    def spoiling(content: dict) -> None:
        content["annotations"].append(dict(content["annotations"][0]))

    edit(path, harmless)
    dataset = built(config(shapes, "coco", val_interval=1), "val")
    assert dataset.get_data_info(0)["instances"][0]["bbox"] == [-9, -9, 41, 41], "left as it is"
    edit(path, spoiling)
    with pytest.raises(BadInputError, match=f"^{path}: annotations listed twice: 1, first annotation 1 "):
        built(config(shapes, "coco", val_interval=1), "val")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("{", "cannot read annotations from"), ("[]", "cannot read annotations"), ("{}", "no list of images")],
)
def test_no_annotation_file_at_all(shapes, text, expected):
    annotations(shapes).write_text(text)
    with pytest.raises(BadInputError, match=expected) as error:
        built(config(shapes, "coco"))
    assert str(annotations(shapes)) in str(error.value)


def test_boxes_alone_need_no_masks(shapes):
    def no_masks(content: dict) -> None:
        for entry in content["annotations"]:
            del entry["segmentation"]

    edit(annotations(shapes), no_masks)
    cfg = config(shapes, "coco")
    cfg.train_dataloader.dataset.pipeline[1].with_mask = False
    dataset = built(cfg, strict=True)
    assert not len(dataset[0]["data_samples"].ignored_instances)


def test_images_without_annotations_can_be_predicted(shapes):
    edit(annotations(shapes, "val"), lambda content: content.pop("annotations"))
    cfg = load_config(RECIPES["coco"])
    set_data_root(cfg, str(shapes / "coco"))
    cfg.test_dataloader.dataset.pipeline = [
        step for step in cfg.test_dataloader.dataset.pipeline if step.type != "LoadAnnotations"
    ]
    cfg.test_dataloader.dataset.ann_file = str(annotations(shapes, "val"))
    assert len(built(cfg, "test")) == 2


def test_other_formats_are_built_as_they_are(shapes, monkeypatch):
    lines = []
    monkeypatch.setattr(checked_dataset, "_warn", lines.append)
    path = shapes / "plain.json"
    path.write_text(json.dumps({"metainfo": {}, "data_list": [{"img_path": "a.jpg"}]}))
    dataset = dict(type="BaseDetDataset", ann_file=str(path), data_prefix=dict(img_path=""))
    with DefaultScope.overwrite_default_scope("mmdet"):
        made = DATASETS.build(dict(type="CheckedDataset", dataset=dataset))
    assert len(made) == 1
    assert lines == ["annotations of BaseDetDataset are not checked: only files in COCO's format are"]
