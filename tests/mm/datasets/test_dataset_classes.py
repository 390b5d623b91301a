"""Every class of dataset that mmseg and mmdet register: trains a step, evaluates and predicts, or is refused.

The classes are found in the registries, so that one of a new version fails here until it has a row.
"""

import json
import math
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import cv2
import dataset_layouts as layouts
import numpy as np
import pytest
from dataset_layouts import BOXES, MAPS, Boxes
from mmdet.registry import DATASETS as DETECTION
from mmengine.config import Config
from mmseg.registry import DATASETS as SEGMENTATION

from convnext_dense.errors import UserError
from convnext_dense.mm.apis.predict import Predictor
from convnext_dense.mm.apis.test import Job, run_test
from convnext_dense.mm.apis.train import TrainOptions, training_config, training_runner
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.engine.options import Options
from convnext_dense.mm.preflight.data import check_everything
from convnext_dense.reports.preflight import Report

# ---- classes that no model of this package can use, with the reason
NO_SEGMENTATION = {
    "BaseCDDataset": "two images per sample (change detection), which only change detectors read",
    "LEVIRCDDataset": "two images per sample (change detection), which only change detectors read",
    "DSDLSegDataset": "needs the package dsdl; refused in one line, see below",
    "NYUDataset": "depths; refused in one line, see below",
    "OneDLDataset": "beside the fork's mmpretrain: reads from a service, by the package onedl",
}
SPECTRA = "HSIDrive20Dataset"  # in the OneDL fork alone
WRAPPERS = {"ConcatDataset", "MultiImageMixDataset", "RepeatDataset", "ClassBalancedDataset"}
NO_DETECTION = {
    "ADE20KSegDataset": "label maps for mmdet's panoptic heads; mmseg has the class for segmentors",
    "BaseSegDataset": "label maps for mmdet's panoptic heads; mmseg has the class for segmentors",
    "CocoSegDataset": "label maps for mmdet's panoptic heads; mmseg has the class for segmentors",
    "DSDLDetDataset": "needs the package dsdl; refused in one line, see below",
}
REFUSED = {  # class of mmdet -> a word of the line
    "ADE20KPanopticDataset": "things and stuff",
    "BaseVideoDataset": "videos",
    "CocoCaptionDataset": "captions",
    "CocoPanopticDataset": "things and stuff",
    "DODDataset": "phrases",
    "Flickr30kDataset": "phrases",
    "MDETRStyleRefCocoDataset": "phrases",
    "MOTChallengeDataset": "videos",
    "ODVGDataset": "phrases",
    "ReIDDataset": "identities",
    "RefCocoDataset": "phrases",
    "YouTubeVISDataset": "videos",
}


def own_classes(registry) -> set[str]:
    """Names that the toolbox itself registers."""
    package = registry.scope
    registry.get("CocoDataset" if package == "mmdet" else "ADE20KDataset")  # imports them all
    return {name for name, kind in registry.module_dict.items() if kind.__module__.startswith(package)}


def test_every_class_has_a_row():
    known = {*MAPS, "DecathlonDataset", SPECTRA, *NO_SEGMENTATION, *WRAPPERS}
    assert own_classes(SEGMENTATION) - known == set()
    known = {*BOXES, *NO_DETECTION, *REFUSED, *WRAPPERS}
    assert own_classes(DETECTION) - known == set()


# ---- small configs


@pytest.fixture(autouse=True)
def no_layout_of_configs(monkeypatch):
    """mmengine writes configs several times in a run, and lays each out for half a second."""
    for module in ("mmengine.config.config", "yapf.yapflib.yapf_api"):  # the fork imports it when it writes
        monkeypatch.setattr(f"{module}.FormatCode", lambda text, **_: (text, True), raising=False)


def segmentor(root: Path, entries: dict[str, dict], classes: int) -> Path:
    """A config file for datasets with these entries."""
    cfg = load_config("demo/upernet_shapes")
    dims = [8, 16, 32, 64]
    cfg.model.backbone.arch = dict(depths=[1, 1, 1, 1], dims=dims)
    cfg.model.data_preprocessor.size = (layouts.SIDE, layouts.SIDE)
    cfg.model.decode_head.update(in_channels=dims, channels=8, num_classes=classes)
    cfg.model.auxiliary_head.update(in_channels=dims[2], channels=8, num_classes=classes)
    return _written(cfg, root, entries)


def detector(root: Path, made: Boxes) -> Path:
    """A config file without masks, whose heads still have the demo's three classes."""
    cfg = load_config("demo/mask_rcnn_shapes")
    dims = [8, 16, 32, 64]
    cfg.model.backbone.arch = dict(depths=[1, 1, 1, 1], dims=dims)
    cfg.model.neck.update(in_channels=dims, out_channels=16)
    cfg.model.rpn_head.update(in_channels=16, feat_channels=16)
    cfg.model.roi_head.bbox_roi_extractor.out_channels = 16
    cfg.model.roi_head.bbox_head.update(in_channels=16, fc_out_channels=16)
    cfg.model.roi_head.mask_head = cfg.model.roi_head.mask_roi_extractor = None
    cfg.model.test_cfg.rpn.update(nms_pre=4, max_per_img=4)
    cfg.model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=5)
    for split in ("train", "val", "test"):
        for step in cfg[f"{split}_dataloader"].dataset.pipeline:
            if step.type == "LoadAnnotations":
                step.with_mask = False
            if step.type == "Resize":
                step.scale = (layouts.SIDE, layouts.SIDE)
            if "meta_keys" in step:
                step.meta_keys = (*step.meta_keys, *made.keys)
    cfg.val_evaluator = cfg.test_evaluator = made.evaluator
    return _written(cfg, root, made.entries)


def _written(cfg: Config, root: Path, entries: dict[str, dict]) -> Path:
    for split in ("train", "val", "test"):
        loader = cfg[f"{split}_dataloader"]
        loader.batch_size = 2 if split == "train" else 1
        entry = entries["train" if split == "train" else "val"]
        loader.dataset = dict(entry, pipeline=loader.dataset.pipeline, test_mode=split != "train")
    if cfg.train_dataloader.dataset.type == "DecathlonDataset":
        cfg.val_dataloader.dataset.test_mode = cfg.test_dataloader.dataset.test_mode = False
    cfg.train_cfg.update(max_iters=1, val_interval=1)
    cfg.default_hooks.checkpoint.interval = 1
    cfg.work_dir = str(root / "run")
    path = root / "config.py"
    cfg.dump(path)
    return path


def options(root: Path, **more) -> dict:
    return dict(work_dir=str(root / "run"), device="cpu", **more)


def trains_and_predicts(path: Path, root: Path, suffix: str = "", **more) -> Predictor:
    """Preflight's checks, one step, an evaluation, and a prediction."""
    report = Report(lambda line: None)
    train_options = TrainOptions(**options(root, **more))
    cfg, _ = training_config(str(path), train_options, splits=())
    assert check_everything(cfg, strict=False, report=report, bar=False), report.problems
    assert report.ready, report.problems
    runner = training_runner(str(path), train_options)
    runner.train()
    loss = runner.message_hub.get_scalar("train/loss").current()
    assert math.isfinite(loss) and loss > 0
    checkpoint = root / "run/iter_1.pth"
    figures = {key: value for key, value in runner.message_hub.log_scalars.items() if key.startswith("val/")}
    assert any("time" not in key for key in figures)
    predictor = Predictor(Config.fromfile(root / "run/config.py"), str(checkpoint))
    suffixes = (suffix,) if suffix else (".jpg", ".png")
    image = next(p for p in sorted(root.rglob("*")) if p.suffix in suffixes and "run" not in p.parts)
    predictor.as_json(predictor(image), 0.0)
    return predictor


# ---- label maps


@pytest.mark.parametrize("name", sorted(MAPS))
def test_label_maps(tmp_path, name):
    entries = layouts.label_maps(tmp_path, name)
    path = segmentor(tmp_path, entries, MAPS[name].classes)
    predictor = trains_and_predicts(path, tmp_path)
    assert len(predictor.classes) == MAPS[name].classes


def test_a_decathlon_of_pictures(tmp_path):
    path = segmentor(tmp_path, layouts.decathlon(tmp_path), 2)
    assert trains_and_predicts(path, tmp_path).classes == ("background", "edema")


def test_arrays_of_25_channels(tmp_path):
    if SPECTRA not in own_classes(SEGMENTATION):
        pytest.skip(f"the official mmseg has no {SPECTRA}")
    entries = layouts.label_maps(tmp_path, "HRFDataset")
    for picture in list((tmp_path / "img").rglob("*.png")):
        array = np.repeat(cv2.imread(str(picture)), 9, axis=2)[..., :25]  # (H, W, 25)
        np.save(picture.with_suffix(".npy"), array.astype(np.float32))
        picture.unlink()
    for entry in entries.values():
        entry["type"] = SPECTRA
    path = segmentor(tmp_path, entries, 11)
    cfg = Config.fromfile(path)
    cfg.model.backbone.in_channels = 25
    cfg.model.data_preprocessor.update(mean=None, std=None, bgr_to_rgb=False)
    for split in ("train", "val", "test"):
        steps = ("LoadImageFromNpyFile", "LoadAnnotations", "PackSegInputs")
        cfg[f"{split}_dataloader"].dataset.pipeline = [dict(type=step) for step in steps]
    cfg.dump(path)
    predictor = trains_and_predicts(path, tmp_path, suffix=".npy")
    assert len(predictor.classes) == 11


@pytest.mark.parametrize("name", ["CityscapesDataset", "STAREDataset", "REFUGEDataset"])
def test_classes_of_ones_own_keep_the_files_of_the_class(tmp_path, name):
    """Values 0 to K - 1, suffixes as the class has them; the demo's heads follow."""
    layout = MAPS[name]
    entries = layouts.label_maps(tmp_path, name)
    path = segmentor(tmp_path, entries, 4)
    names = [f"c{i}" for i in range(layout.classes)]
    cfg, notes = training_config(str(path), TrainOptions(**options(tmp_path, classes=",".join(names))))
    for split in ("train", "val", "test"):
        data = cfg[f"{split}_dataloader"].dataset
        assert (data.type, data.img_suffix, data.seg_map_suffix) == (
            "BaseSegDataset",
            layout.image,
            layout.map,
        )
        assert tuple(data.metainfo.classes) == tuple(names) and data.reduce_zero_label is False
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == len(names)
    assert any(f"value 0 of the label maps is c0, {len(names) - 1} is c{len(names) - 1}" in n for n in notes)


def test_files_with_another_suffix_than_the_classs(tmp_path):
    """A Cityscapes recipe on someone's own plain names."""
    entries = layouts.label_maps(tmp_path, "HRFDataset")
    for entry in entries.values():
        entry["type"] = "CityscapesDataset"
    path = segmentor(tmp_path, entries, 19)
    cfg, _ = training_config(str(path), TrainOptions(**options(tmp_path, classes="ground,box")))
    assert cfg.train_dataloader.dataset.img_suffix == cfg.val_dataloader.dataset.seg_map_suffix == ".png"


def test_some_classes_of_the_class_are_renumbered_and_the_line_says_so(tmp_path):
    entries = layouts.label_maps(tmp_path, "CityscapesDataset")
    numbers = np.zeros((layouts.SIDE, layouts.SIDE), np.uint8)  # road
    numbers[:20], numbers[20:40] = 18, 13  # bicycle and car
    for path in (tmp_path / "ann").rglob("*.png"):
        cv2.imwrite(str(path), numbers)
    for entry in entries.values():
        entry["metainfo"] = dict(classes=("bicycle", "car"))
    path = segmentor(tmp_path, entries, 2)
    cfg, notes = training_config(str(path), TrainOptions(**options(tmp_path)))
    assert any(
        note.startswith("2 of the 19 classes of CityscapesDataset: bicycle, car; their values are renumbered")
        for note in notes
    )
    runner = training_runner(str(path), TrainOptions(**options(tmp_path)))
    sample = runner.build_dataloader(cfg.val_dataloader).dataset[0]["data_samples"]
    labels = sample.gt_sem_seg.data[0].numpy()
    assert (labels[:20] == 0).all() and (labels[20:40] == 1).all() and (labels[40:] == 255).all()


def test_names_of_the_class_given_as_ones_own_stop_at_its_values(tmp_path):
    entries = layouts.label_maps(tmp_path, "CityscapesDataset")
    path = segmentor(tmp_path, entries, 19)
    with pytest.raises(UserError, match=r"\(18\); 2 classes have the values 0 to 1"):
        training_config(str(path), TrainOptions(**options(tmp_path, classes="road,bicycle")))


@pytest.mark.parametrize(
    ("change", "heads", "message"),
    [
        (dict(metainfo=dict(classes=("road", "cow"))), 2, "'cow' is not one of its 19 classes"),
        ({}, 4, r"CityscapesDataset has 19 classes and decode_head\.num_classes is 4"),
        (dict(type="NYUDataset"), 19, "NYUDataset is for depths"),
        (dict(type="DSDLSegDataset"), 19, "DSDLSegDataset cannot be used.*dsdl is not installed"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(tmp_path, change, heads, message):
    entries = layouts.label_maps(tmp_path, "CityscapesDataset")
    for entry in entries.values():
        entry.update(change)
    with pytest.raises(UserError, match=message) as error:
        training_config(str(segmentor(tmp_path, entries, heads)), TrainOptions(**options(tmp_path)))
    assert "\n" not in str(error.value)


def test_depths_cannot_be_evaluated(tmp_path):
    path = segmentor(tmp_path, layouts.label_maps(tmp_path, "BaseSegDataset"), 3)
    overrides = {"val_evaluator": [dict(type="DepthMetric")]}
    with pytest.raises(UserError, match="val_evaluator: DepthMetric is for depths"):
        training_config(str(path), TrainOptions(**options(tmp_path, overrides=overrides)))


# ---- boxes

NO_RECORD = "a record needs one of CocoMetric or IoUMetric"


@pytest.fixture
def lvis_package(monkeypatch):
    """The part of the package ``lvis`` that mmdet's dataset calls."""

    class LVIS:
        def __init__(self, path: str) -> None:
            content = json.loads(Path(path).read_text())
            self.images = {entry["id"]: entry for entry in content["images"]}
            self.annotations = {entry["id"]: entry for entry in content["annotations"]}
            self.categories = sorted(entry["id"] for entry in content["categories"])
            self.cat_img_map = defaultdict(list)
            for entry in content["annotations"]:
                self.cat_img_map[entry["category_id"]].append(entry["image_id"])

        def get_cat_ids(self) -> list[int]:
            return self.categories

        def get_img_ids(self) -> list[int]:
            return list(self.images)

        def load_imgs(self, ids: list[int]) -> list[dict]:
            return [self.images[number] for number in ids]

        def get_ann_ids(self, img_ids: list[int]) -> list[int]:
            return [n for n, entry in self.annotations.items() if entry["image_id"] in img_ids]

        def load_anns(self, ids: list[int]) -> list[dict]:
            return [self.annotations[number] for number in ids]

    module = ModuleType("lvis")
    module.LVIS = LVIS
    monkeypatch.setitem(sys.modules, "lvis", module)


def classes_of(name: str) -> tuple[str, ...]:
    return tuple(getattr(DETECTION.get(name), "METAINFO", {}).get("classes") or ())


@pytest.mark.parametrize("name", sorted(BOXES))
def test_boxes(tmp_path, lvis_package, name):
    classes = classes_of(name)
    made = BOXES[name](tmp_path, classes)
    path = detector(tmp_path, made)
    predictor = trains_and_predicts(path, tmp_path)
    own = {
        "BaseDetDataset": ("cog", "nut"),
        "XMLDataset": ("cog", "nut"),
        "V3DetDataset": ("cog", "nut", "bolt"),
        "OpenImagesDataset": ("Cog", "Nut"),
        "OpenImagesChallengeDataset": ("Cog", "Nut"),
    }
    assert predictor.classes == own.get(name, classes)
    assert predictor.model.roi_head.bbox_head.num_classes == len(predictor.classes)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_other_tasks_are_refused(tmp_path, name):
    made = layouts.coco(tmp_path, "CocoDataset", ["cog", "nut"])
    path = detector(tmp_path, made)
    cfg = Config.fromfile(path)
    cfg.train_dataloader.dataset.type = name
    cfg.dump(path)
    with pytest.raises(UserError, match=rf"{name} is for .*{REFUSED[name]}.* MaskRCNN does not predict"):
        training_config(str(path), TrainOptions(**options(tmp_path)))


def test_a_package_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lvis", None)
    path = detector(tmp_path, layouts.lvis(tmp_path, "LVISV1Dataset", classes_of("LVISV1Dataset")))
    with pytest.raises(UserError, match=r"LVISV1Dataset cannot be used.*Package lvis is not installed"):
        training_config(str(path), TrainOptions(**options(tmp_path)))


@pytest.mark.parametrize("name", ["VOCDataset", "XMLDataset"])
def test_ones_own_classes_in_xml(tmp_path, name):
    made = layouts.voc(tmp_path, name, ["x", "nut"])
    path = detector(tmp_path, made)
    cfg, notes = training_config(str(path), TrainOptions(**options(tmp_path, classes="nut,bolt")))
    assert cfg.model.roi_head.bbox_head.num_classes == 2
    assert tuple(cfg.test_dataloader.dataset.metainfo.classes) == ("nut", "bolt")
    assert f"2 classes of {name}: nut, bolt" in notes


def test_objects_with_other_names_are_counted(tmp_path):
    path = detector(tmp_path, layouts.voc(tmp_path, "VOCDataset", classes_of("VOCDataset")))
    for split in ("train_0", "val_0"):
        (tmp_path / f"VOC2007/Annotations/{split}.xml").write_text(layouts.xml("bycicle"))
    with pytest.raises(UserError, match=r"without any box of its classes: 1, first val\.txt"):
        training_config(str(path), TrainOptions(**options(tmp_path)))
    (tmp_path / "VOC2007/Annotations/val_0.xml").write_text(layouts.xml("bicycle"))
    _, notes = training_config(str(path), TrainOptions(**options(tmp_path)))
    line = "objects of train.txt whose names are no class: 1, first bycicle (bycicle (1))"
    assert f"left out in training: {line}" in notes


def test_lists_of_names_written_by_hand(tmp_path):
    """mmdet takes a space or an empty line for a part of a name: the run reads a copy without them."""
    path = detector(tmp_path, layouts.voc(tmp_path, "VOCDataset", classes_of("VOCDataset")))
    (tmp_path / "train.txt").write_text("\ufefftrain_0 \n\ntrain_1\n", encoding="utf-8")
    cfg, notes = training_config(str(path), TrainOptions(**options(tmp_path)))
    assert Path(cfg.train_dataloader.dataset.ann_file).read_text() == "train_0\ntrain_1\n"
    assert any("white space around names" in note for note in notes)


def no_xml(root: Path) -> None:
    (root / "VOC2007/Annotations/train_1.xml").unlink()


def damaged_xml(root: Path) -> None:
    (root / "VOC2007/Annotations/train_1.xml").write_text("<annotation><object>")


def no_box(root: Path) -> None:
    (root / "VOC2007/Annotations/train_1.xml").write_text(
        "<annotation><object><name>bicycle</name></object></annotation>"
    )


def other_suffix(root: Path) -> None:
    (root / "VOC2007/JPEGImages/val_0.jpg").rename(root / "VOC2007/JPEGImages/val_0.png")


def flags_in_the_list(root: Path) -> None:
    (root / "train.txt").write_text("train_0  1\ntrain_1 -1\n")


def other_names(root: Path) -> None:
    for path in (root / "VOC2007/Annotations").iterdir():
        path.write_text(layouts.xml("unicycle"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_xml, r"annotation files of .*train\.txt that are not there: 1, first .*train_1\.xml"),
        (damaged_xml, r"annotation files that cannot be used: 1, first .*train_1\.xml \(no element found"),
        (no_box, "the object bicycle has no box with xmin"),
        (other_suffix, r"val_0\.jpg \(there is val_0\.png\); VOCDataset reads \.jpg alone"),
        (flags_in_the_list, "a line of the list holds one name and nothing else"),
        (other_names, r"VOCDataset without any box of its classes.*its objects are unicycle \(2\)\); give"),
    ],
)
def test_faulty_xml_stops_the_run(tmp_path, spoil, message):
    path = detector(tmp_path, layouts.voc(tmp_path, "VOCDataset", classes_of("VOCDataset")))
    spoil(tmp_path)
    with pytest.raises(UserError, match=message):
        training_config(str(path), TrainOptions(**options(tmp_path)))


def test_a_part_of_the_file_that_the_class_takes(tmp_path):
    """Cityscapes' file has more categories than the eight of the class."""
    classes = classes_of("CityscapesDataset")
    made = layouts.coco(tmp_path, "CityscapesDataset", ["caravan", *classes])
    cfg, _ = training_config(str(detector(tmp_path, made)), TrainOptions(**options(tmp_path)))
    assert cfg.model.roi_head.bbox_head.num_classes == 8
    assert "metainfo" not in cfg.train_dataloader.dataset


def test_a_subclass_with_other_names_in_its_file(tmp_path):
    """The file's names and order count, as for CocoDataset: mmdet numbers the labels by it."""
    made = layouts.coco(tmp_path, "DeepFashionDataset", ["nut", "cog"])
    cfg, notes = training_config(str(detector(tmp_path, made)), TrainOptions(**options(tmp_path)))
    assert tuple(cfg.val_dataloader.dataset.metainfo.classes) == ("nut", "cog")
    assert any(note.startswith("2 classes in the order of ") for note in notes)


@pytest.mark.parametrize("name", ["CityscapesDataset", "CocoDataset", "VOCDataset"])
def test_a_test_prints_the_figures_of_any_evaluator(tmp_path, name):
    """A record is kept where tables could use it, else the reason is given."""
    if name == "CityscapesDataset":
        path = segmentor(tmp_path, layouts.label_maps(tmp_path, name), MAPS[name].classes)
    else:
        path = detector(tmp_path, BOXES[name](tmp_path, classes_of(name)))
    runner = training_runner(str(path), TrainOptions(**options(tmp_path)))
    runner.train()
    outcome = run_test(Job(str(path), tmp_path / "run/iter_1.pth", Options(**options(tmp_path))), tmp_path)
    assert outcome.metrics
    assert (outcome.evaluation is None) == (name == "VOCDataset")
    assert outcome.reason == ("" if outcome.evaluation else "test_evaluator is VOCMetric; " + NO_RECORD)


# ---- wrappers


def wrapped(kind: str, data: dict) -> dict:
    """A dataset's config inside a wrapper."""
    if kind == "ConcatDataset":
        return dict(type=kind, datasets=[data, dict(data)])
    if kind == "MultiImageMixDataset":
        steps, data["pipeline"] = data["pipeline"], data["pipeline"][:2]
        return dict(type=kind, dataset=data, pipeline=steps[2:])
    more = dict(oversample_thr=0.5) if kind == "ClassBalancedDataset" else dict(times=2)
    return dict(type=kind, dataset=data, **more)


@pytest.mark.parametrize("kind", sorted(WRAPPERS))
@pytest.mark.parametrize("task", ["maps", "xml"])
def test_wrappers(tmp_path, kind, task):
    if task == "maps":
        if kind == "ClassBalancedDataset":
            pytest.skip("mmseg's datasets have no get_cat_ids")
        path = segmentor(tmp_path, layouts.label_maps(tmp_path, "CityscapesDataset"), 19)
    else:
        path = detector(tmp_path, layouts.voc(tmp_path, "VOCDataset", classes_of("VOCDataset")))
    cfg = Config.fromfile(path)
    data = cfg.train_dataloader.dataset.to_dict()
    cfg.train_dataloader.dataset = wrapped(kind, data)
    cfg.train_dataloader.batch_sampler = dict(type="AspectRatioBatchSampler") if task == "xml" else None
    if task == "maps":
        del cfg.train_dataloader.batch_sampler
    cfg.dump(path)
    assert len(trains_and_predicts(path, tmp_path).classes) in (19, 20)
