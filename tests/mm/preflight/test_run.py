"""A preflight finds planted faults, reports the published figures, and leaves no files."""

import gc
import importlib
import json
import re
import shutil
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.device import utils as mmengine_device
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from convnext_dense.data.synthetic import make_shapes
from convnext_dense.mm.apis.train import TrainOptions, training_runner
from convnext_dense.mm.config.edit import set_amp, set_batch, set_checkpoints, set_pretrained
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.datasets.custom_classes import set_own_data
from convnext_dense.mm.datasets.paths import iter_datasets, set_data_root
from convnext_dense.mm.preflight import steps
from convnext_dense.mm.preflight.data import check_everything
from convnext_dense.mm.preflight.plan import disk_of, length_of, plan_rates, span_of
from convnext_dense.mm.preflight.run import preflight
from convnext_dense.mm.preflight.samples import Samples, largest_samples
from convnext_dense.mm.preflight.shape import (
    Largest,
    UnknownSizeError,
    extremes,
    is_grouped,
    largest_shape,
    pad,
    run_sizes,
)
from convnext_dense.mm.preflight.steps import (
    Measured,
    confirmed,
    largest_fitting,
    measure_steps,
    timed_peak,
)
from convnext_dense.models.convnext import ConvNeXt
from convnext_dense.reports.preflight import Report, memory_line

TRAIN, VAL = 12, 3


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(root, TRAIN, VAL)
    return root


@pytest.fixture(autouse=True)
def few_objects_to_collect():
    """Every measurement collects garbage first, which takes half a second among all that pytest imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def shapes(made, tmp_path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(made, tmp_path / "shapes"))


def demo(kind: str, root: Path, **overrides) -> Config:
    """The config of a demo as ``tools/train.py`` prepares it, on the data below ``root``."""
    name = {"coco": "mask_rcnn_shapes", "ade20k": "upernet_shapes"}[kind]
    cfg = load_config(f"demo/{name}", overrides)
    set_data_root(cfg, str(root / kind))
    cfg.work_dir = str(root.parent / "work_dir" / name)
    set_own_data(cfg, None, ())
    set_amp(cfg, None, "cpu")
    set_batch(cfg, 1)
    set_checkpoints(cfg, None, None, 30)
    return cfg


def run(cfg: Config, **options) -> tuple[bool, dict[str, str], str]:
    """Whether ready, lines by topic, and the whole text."""
    lines: list[str] = []
    ready = preflight(cfg, tell=lines.append, **options)
    return (
        ready,
        {line[8:20].strip(): line[21:] for line in lines[:-1] if line[8:20].strip()},
        "\n".join(lines),
    )


def tree(root: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(root)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in root.rglob("*")
    }


# ---- the whole


def test_detector_ready_and_nothing_written(shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    cfg = demo("coco", shapes, **{"train_dataloader.batch_size": 2, "auto_scale_lr.base_batch_size": 6})
    importlib.import_module("mmdet.datasets")  # the fork's prints, when it is imported first, what it lacks
    capsys.readouterr()
    ready, topics, text = run(cfg)
    assert tree(tmp_path) == before
    assert ready, text
    assert capsys.readouterr().out == ""  # the report is all there is to read
    assert text.splitlines()[-1] == "ready"
    content = json.loads((shapes / "coco/annotations/instances_train2017.json").read_text())
    assert topics["train"].startswith(f"all {TRAIN} images of ")
    assert topics["train"].endswith(f", {len(content['annotations'])} annotations")
    assert topics["val and test"].startswith(f"all {VAL} images")
    assert topics["weights"].startswith("random")
    most = max(Counter(a["image_id"] for a in content["annotations"]).values())
    full = f"the fullest of all {TRAIN} images, up to {most} instances"
    assert f"largest batch 2 x 160x160 (height x width); from the pipeline; {full}" in topics["shape"]
    assert "per step of 3 batches" in topics["steps"]
    assert topics["run"].startswith("500 steps: ")
    if sys.platform == "linux":
        assert int(re.search(r"largest that fits: (\d+) images", topics["batch"])[1]) > 2


def test_segmentor_ready_and_nothing_written(shapes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    ready, topics, text = run(demo("ade20k", shapes))
    assert tree(tmp_path) == before
    assert ready, text
    assert topics["train"].startswith(f"all {TRAIN} images with label maps of ")
    assert f"largest of {TRAIN} samples drawn" in topics["shape"], "they go in at their own size"
    assert "largest batch 4 x 160x160" in topics["shape"]
    assert topics["run"].startswith("600 steps: ")


def test_resumed_run_and_the_size_of_its_checkpoints(made, tmp_path):
    overrides = {"train_cfg.max_iters": 1, "default_hooks.checkpoint.interval": 1, "val_dataloader": None}
    overrides |= {"val_cfg": None, "val_evaluator": None, "train_dataloader.batch_size": 1}
    options = TrainOptions(str(tmp_path), f"{made}/ade20k", overrides=overrides, batch="as_is", keep=2)
    runner = training_runner("demo/upernet_shapes", options)
    runner.train()
    path = tmp_path / "iter_1.pth"
    cfg = demo("ade20k", made, **{"train_dataloader.batch_size": 1})
    cfg.load_from, cfg.resume = str(path), True
    _, topics, _ = run(cfg)
    tensors = len(runner.model.state_dict())
    assert topics["weights"].startswith(
        f"whole model: {tensors}/{tensors} tensors from {path}, after step 1;"
    )
    assert topics["run"].startswith("599 steps left of 600: ")
    size = float(re.match(r"([\d.]+) MiB per checkpoint", topics["disk"])[1]) * 2**20
    assert size == pytest.approx(path.stat().st_size, rel=0.02)


# ---- weights


def backbone_file(path: Path, dims: list[int]) -> Path:
    """Weights of the demos' architecture, as released files name them."""
    torch.manual_seed(0)
    torch.save({"model": ConvNeXt(dict(depths=[1, 1, 3, 1], dims=dims)).state_dict()}, path)
    return path


def test_weights_are_counted_or_a_problem(made, tmp_path, monkeypatch):
    monkeypatch.setattr("convnext_dense.mm.preflight.run._Preflight.train_loader", no_data)
    good, other = (
        backbone_file(tmp_path / f"{d[0]}.pth", d) for d in ([32, 64, 128, 256], [16, 32, 64, 128])
    )
    told = {}
    for path in (good, other, tmp_path / "none.pth"):
        cfg = demo("coco", made)
        set_pretrained(cfg, str(path))
        told[path.name] = run(cfg)
    ready, topics, _ = told["32.pth"]
    tensors = len(ConvNeXt(dict(depths=[1, 1, 3, 1], dims=[32, 64, 128, 256])).state_dict())
    assert f"{tensors}/{tensors} tensors" in topics["weights"]
    for name in ("16.pth", "none.pth"):
        ready, topics, text = told[name]
        assert not ready
        assert re.search(rf"^PROBLEM weights .*{re.escape(name)}.*--pretrained", text, re.MULTILINE)


def no_data(self) -> None:
    """Replacement of the loader: only the weights are of interest."""
    from convnext_dense.errors import UserError

    raise UserError("left out in this test")


# ---- data


def test_no_steps_on_labels_that_the_model_lacks(shapes):
    path = images(shapes, "ade20k/annotations/training")[0]
    Image.fromarray(np.full((160, 160), 9, np.uint8)).save(path)
    ready, topics, text = run(demo("ade20k", shapes))
    assert not ready
    assert topics["steps"].startswith("not tried")
    assert "\nnot ready: 1 problem\n  train: label maps with wrong values: 1, first " in text


def test_no_data_is_a_problem_among_others(tmp_path):
    cfg = demo("ade20k", tmp_path / "nowhere")
    set_pretrained(cfg, str(tmp_path / "none.pth"))
    ready, topics, text = run(cfg)
    assert not ready
    assert topics["data"].startswith(
        f"no dataset at {tmp_path}/nowhere/ade20k/images/training (give --data-root"
    )
    assert topics["steps"].startswith("not tried")
    assert "\nnot ready: 2 problems\n" in text


def test_what_the_first_evaluation_would_meet_is_a_problem(made, tmp_path, monkeypatch):
    monkeypatch.setattr("convnext_dense.mm.preflight.run._Preflight.train_loader", no_data)
    cfg = demo("coco", made)
    cfg.default_hooks.checkpoint.save_best = "bbox_mAP"
    ready, topics, _ = run(cfg)
    assert not ready
    assert "'bbox_mAP' is no figure of val_evaluator; use one of coco/bbox_mAP" in topics["evaluation"]


def checked(cfg: Config, strict: bool = False) -> tuple[Report, str]:
    init_default_scope(cfg.default_scope)
    lines: list[str] = []
    report = Report(lines.append)
    check_everything(cfg, strict, report, bar=False)
    return report, "\n".join(lines)


def images(root: Path, folder: str) -> list[Path]:
    return sorted((root / folder).iterdir())


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_broken_images_are_named(shapes):
    one, two, three = images(shapes, "coco/train2017")[:3]
    one.unlink()
    truncate(two)
    Image.new("RGB", (80, 90)).save(three)
    report, text = checked(demo("coco", shapes))
    assert report.ready
    assert len(report.warnings) == 2
    assert f"images that are not there: 1, first {one}; left out in training" in text
    assert f"images that cannot be used: 2, first {two} (" in text
    assert f"{three} (it has 80x90 pixels, but was annotated at 160x160)" in text
    strictly, _ = checked(demo("coco", shapes), strict=True)
    assert len(strictly.problems) == 2


def test_a_broken_validation_image_is_a_problem(shapes):
    truncate(images(shapes, "coco/val2017")[1])
    report, _ = checked(demo("coco", shapes))
    (problem,) = report.problems
    assert str(images(shapes, "coco/val2017")[1]) in problem
    assert "repair or remove" in problem


def test_faults_of_annotations(shapes):
    path = shapes / "coco/annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"][3]["category_id"] = 99
    path.write_text(json.dumps(content))
    report, text = checked(demo("coco", shapes))
    assert report.ready
    assert f"{path}: annotations without a known category: 1, first annotation 4" in text
    cfg = demo("coco", shapes)
    path.write_text("{")
    report, _ = checked(cfg)
    assert report.problems[0].startswith(f"train: cannot read annotations from {path}")


def test_faults_of_label_maps(shapes):
    image = images(shapes, "ade20k/images/training")[0]
    value, size, broken, gone = images(shapes, "ade20k/annotations/training")[:4]
    truncate(images(shapes, "ade20k/images/training")[5])
    Image.fromarray(np.full((160, 160), 9, np.uint8)).save(value)
    Image.fromarray(np.zeros((80, 160), np.uint8)).save(size)
    truncate(broken)
    gone.unlink()
    report, text = checked(demo("ade20k", shapes))
    assert image.is_file()
    assert f"label maps with wrong values: 1, first {value} (9); 4 classes have the values 1 to 4" in text
    assert f"label maps of another size than their image: 1, first {size} (160x80, its image 160x160)" in text
    assert f"files that cannot be read: 1, first {broken}" in text
    assert f"images without a label map: 1, first {images(shapes, 'ade20k/images/training')[3]}" in text
    assert f"images that cannot be used: 1, first {images(shapes, 'ade20k/images/training')[5]}" in text
    (problem,) = report.problems  # training would wrongly use this one; it leaves the others out
    assert "wrong values" in problem
    assert len(report.warnings) == 4


# ---- the largest shape


@pytest.mark.parametrize(
    ("name", "batch_size", "image", "batch"),
    [
        ("cascade/convnext_b_3x", 1, (800, 1344), (800, 1344)),  # 1333 padded to a multiple of 32
        # an upright crop of 600 x 384 becomes 1250 x 800, beside a landscape of 1333: 1250 -> 1280
        ("cascade/convnext_b_3x", 2, (800, 1344), (1280, 1344)),
        ("mmdet::mask_rcnn/mask-rcnn_r50_fpn_2x_coco.py", 2, (800, 1344), (800, 1344)),  # grouped, uncropped
        ("mask_rcnn/convnextv2_base_3x", 2, (1024, 1024), (1024, 1024)),  # large-scale jitter
        ("upernet/convnext_t_512_160k", 2, (512, 512), (512, 512)),
        ("upernet/convnext_b_in22k_640_160k", 2, (640, 640), (640, 640)),
        ("demo/mask_rcnn_shapes", 4, (160, 160), (160, 160)),
        (
            "mmdet::htc/htc_x101-64x4d-dconv-c3-c5_fpn_ms-400-1400-16xb1-20e_coco.py",
            2,
            (1408, 1600),
            (1408, 1600),
        ),
        ("mmdet::dyhead/atss_swin-l-p4-w12_fpn_dyhead_ms-2x_coco.py", 2, (1280, 2048), (1280, 2048)),
        # no multiple of 32; an upright crop of 600 x 384 beside a landscape
        ("mmdet::ddq/ddq-detr-4scale_r50_8xb2-12e_coco.py", 2, (800, 1333), (1250, 1333)),
        ("mmdet::solov2/solov2-light_r18_fpn_ms-3x_coco.py", 2, (512, 768), (512, 768)),
        ("mmseg::ann/ann_r101-d8_4xb2-40k_cityscapes-512x1024.py", 2, (512, 1024), (512, 1024)),
        ("mmseg::mask2former/mask2former_swin-s_8xb2-160k_ade20k-512x512.py", 2, (512, 512), (512, 512)),
    ],
)
def test_largest_shape_of_published_recipes(name, batch_size, image, batch):
    cfg = load_config(name)
    loader = cfg.train_dataloader
    found = largest_shape(
        next(iter_datasets(loader.dataset)).pipeline,
        cfg.model.data_preprocessor,
        cfg.default_scope,
        batch_size,
        is_grouped(loader),
    )
    assert (found.image, found.batch) == (image, batch)


def test_without_groups_a_batch_holds_landscape_and_upright():
    pipeline = [dict(type="Resize", scale=(1333, 800), keep_ratio=True)]
    assert largest_shape(pipeline, dict(pad_size_divisor=32), "mmdet", 2).batch == (1344, 1344)
    assert largest_shape(pipeline, dict(pad_size_divisor=32), "mmdet", 2, grouped=True).batch == (800, 1344)


def test_what_does_not_follow_from_the_config():
    with pytest.raises(UnknownSizeError, match="Mosaic"):
        largest_shape([dict(type="Mosaic", img_scale=(640, 640))], {}, "mmdet")
    with pytest.raises(UnknownSizeError, match="their own size"):
        largest_shape([dict(type="RandomFlip", prob=0.5)], {}, "mmdet")
    with pytest.raises(UnknownSizeError, match=r"Resize does not run on a blank image .*scale"):
        largest_shape([dict(type="Resize")], {}, "mmdet")


@pytest.mark.parametrize("name", ["cascade/convnext_b_3x", "mask_rcnn/convnextv2_base_3x"])
def test_the_real_transforms_reach_the_largest_shape(name, monkeypatch):
    """The oracle: mmdet's own transforms on images of all proportions, with extreme random integers."""
    cfg = load_config(name)
    init_default_scope("mmdet")
    pipeline = cfg.train_dataloader.dataset.pipeline
    steps = [step for step in pipeline if not step["type"].startswith(("Load", "Pack", "Filter"))]
    transforms = Compose(steps)
    rng = np.random.default_rng(0)
    np.random.seed(0)

    def extreme(low: int, high: int | None = None, size: int | None = None) -> int:
        low, high = (0, low) if high is None else (low, high)
        return int(rng.choice([low, high - 1]))

    monkeypatch.setattr(np.random, "randint", extreme)
    largest = largest_shape(steps, {}, "mmdet", 2, grouped=True)
    grouped: dict[bool, list] = {True: [], False: []}
    for _ in range(300):
        height, width = rng.integers(200, 640, 2)
        image = np.zeros((height, width, 3), np.uint8)
        out = transforms(dict(img=image, img_shape=image.shape[:2]))
        grouped[bool(width < height)].append(out["img"].shape[:2])
    for sizes in grouped.values():
        heights, widths = zip(*sizes, strict=True)
        reached, most = max(heights) * max(widths), largest.batch[0] * largest.batch[1]
        assert 0.97 * most < reached <= most
        assert max(h * w for h, w in sizes) <= largest.image[0] * largest.image[1]


@pytest.mark.parametrize(
    ("transform", "scope", "sizes"),
    [
        (dict(type="RandomCrop", crop_size=(300, 200)), "mmdet", {(200, 300)}),  # width, height
        (dict(type="RandomCrop", crop_size=(300, 200)), "mmseg", {(300, 200)}),  # height, width
        (dict(type="mmdet.Resize", scale=(320, 240)), "mmdet", {(240, 320)}),
        (dict(type="Resize", scale_factor=0.5, keep_ratio=True), "mmdet", {(200, 400)}),
        (dict(type="Pad", size=(1000, 500)), "mmdet", {(500, 1000)}),
        (dict(type="Pad", size_divisor=64), "mmdet", {(448, 832)}),
        (
            dict(type="RandomApply", transforms=[dict(type="Resize", scale=(9, 9))]),
            "mmdet",
            {(400, 800), (9, 9)},
        ),
    ],
)
def test_one_transform(transform, scope, sizes):
    assert run_sizes([transform], {(400, 800)}, scope) == sizes


@pytest.mark.parametrize(
    ("transform", "changed"),
    [
        (dict(type="Resize", scale=(9, 6)), [{}]),
        (
            dict(type="RandomChoiceResize", scales=[(9, 6), (7, 5)]),
            [dict(scales=[(9, 6)]), dict(scales=[(7, 5)])],
        ),
        (
            dict(type="mmdet.RandomResize", scale=(9, 6), ratio_range=(0.5, 2.0)),
            [dict(ratio_range=(0.5, 0.5)), dict(ratio_range=(2.0, 2.0))],
        ),
        (
            dict(type="RandomResize", scale=[(9, 6), (7, 5)]),
            [dict(scale=wh, ratio_range=(1.0, 1.0)) for wh in ((9, 6), (9, 5), (7, 6), (7, 5))],
        ),
        (dict(type="RandomCrop", crop_size=(4, 3), cat_max_ratio=0.75), [{}]),
        (
            dict(type="RandomCrop", crop_type="absolute_range", crop_size=(300, 600)),
            [
                dict(crop_type="absolute", crop_size=wh)
                # 600 / 1.5 = 400 lies in the range, 600 / 3 = 200 does not
                for wh in ((300, 300), (300, 600), (600, 300), (600, 600), (600, 400), (400, 600))
            ],
        ),
        (
            dict(type="RandomCrop", crop_type="relative_range", crop_size=(0.5, 0.8)),  # height, width
            [
                dict(crop_type="relative", crop_size=(width, height))
                for width in (0.8, 0.9, 1.0)
                for height in (0.5, 0.75, 1.0)
            ],
        ),
    ],
)
def test_extremes_of_a_random_choice(transform, changed):
    def order(cfg: dict) -> str:
        return repr(sorted(cfg.items()))

    expected = [{**transform, **entries} for entries in changed]
    assert sorted(extremes(transform, [1.5, 3.0]), key=order) == sorted(expected, key=order)


def test_blank_images_leave_the_random_numbers_alone():
    before = np.random.get_state()[1].tolist()
    run_sizes([dict(type="RandomCrop", crop_size=(300, 200))], {(400, 800)}, "mmdet")
    assert np.random.get_state()[1].tolist() == before


def test_padding():
    assert pad((500, 333), dict(pad_size_divisor=32)) == (512, 352)
    assert pad((500, 333), dict(size=(512, 512))) == (512, 512)
    augment = dict(type="mmdet.BatchFixedSizePad", size=(1024, 768))
    assert pad((500, 333), dict(batch_augments=[augment])) == (1024, 768)


def test_samples_are_the_fullest_images(made):
    cfg = demo("coco", made)
    init_default_scope("mmdet")
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    samples = largest_samples(cfg, cfg.train_dataloader, dataset)
    content = json.loads((made / "coco/annotations/instances_train2017.json").read_text())
    counts = sorted(Counter(a["image_id"] for a in content["annotations"]).values(), reverse=True)
    taken = [len(item["data_samples"].gt_instances) for item in samples.items]
    assert taken == counts[: len(taken)]
    assert len(samples.batch(7)["inputs"]) == 7
    assert {tuple(image.shape) for image in samples.batch(7)["inputs"]} == {(3, 160, 160)}


# ---- steps


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports the peak memory of a process")
def test_memory_of_known_tensors():
    mib = 2**20

    def step(images: int) -> None:
        torch.ones(images * 64 * mib // 4).sum()

    peaks = {n: timed_peak(lambda n=n: step(n), torch.device("cpu"))[1] for n in (1, 3)}
    if None in peaks.values():
        pytest.skip("this system does not report memory use")
    assert memory_line(peaks).per_image == pytest.approx(64 * mib, rel=0.05)


@pytest.mark.parametrize(
    ("predicted", "known", "really", "found"), [(8, 2, 9, 8), (8, 2, 6, 6), (40, 2, 1, 2)]
)
def test_a_prediction_is_tried(predicted, known, really, found):
    tried = []

    def fits(images: int) -> bool:
        tried.append(images)
        return images <= really

    assert confirmed(predicted, known, fits) == found
    assert tried == sorted(tried, reverse=True)


@pytest.mark.parametrize(("gib", "tried"), [(0.25, True), (80, False)])
def test_thousands_of_small_images_are_not_tried_on_a_gpu(gib, tried):
    """A stand-in for a card: which batches would be tried."""
    batches = []
    model = SimpleNamespace(
        parameters=lambda: iter([SimpleNamespace(device=torch.device("cuda"))]),
        train_step=lambda batch, optim_wrapper: batches.append(batch),
    )
    measured = Measured(1.0, {1: 2**20, 2: 2**21}, 0, int(gib * 2**30), 0.0)
    images, was_tried = largest_fitting(model, None, SimpleNamespace(batch=lambda n: n), measured)
    assert images == int(gib * 1024 * steps.USABLE) and was_tried == tried
    assert batches == ([images] if tried else [])


# ---- arithmetic of configs


def test_span_of_the_published_runs():
    coco = load_config("cascade/convnext_b_3x")
    assert span_of(coco.train_cfg, 7330).total == 36 * 7330
    eight = dict(coco.train_cfg, accumulate=8)  # one process of 2 images: 58,633 batches per epoch
    assert span_of(eight, 58_633).epoch_length == 7330
    ade = load_config("upernet/convnext_t_512_160k")
    span = span_of(ade.train_cfg, 1264)
    assert span.total == 160_000
    assert length_of(ade, span, 0).evaluations == 10
    assert length_of(ade, span, 100_000)[::2] == (60_000, 4)


def test_rates_of_the_published_run():
    cfg = load_config("cascade/convnext_b_3x")
    set_batch(cfg, 8)
    rates = plan_rates(cfg, 7330, 16)
    assert rates.reached
    assert "from 2e-07 to 0.0002 at step 500 and 2e-06 at the end, step 263,880" in rates.course
    assert not plan_rates(cfg, 10, 16).reached, "360 steps are less than the warm-up"
    assert rates.idle is None
    cfg.param_scheduler = [dict(type="PolyLR", eta_min=0.0, begin=0, end=18)]  # of 36 epochs
    assert "learning rate is 0 in the last 19 of 36 steps" in plan_rates(cfg, 1, 16).idle


def test_disk_of_the_published_runs():
    coco = load_config("cascade/convnext_b_3x")
    set_checkpoints(coco, None, None, 30)
    disk = disk_of(coco.default_hooks.checkpoint, span_of(coco.train_cfg, 7330), 3000, 1000)
    assert (disk.regular, disk.best) == (4, 1)  # the last three and the recent one
    assert disk.most == 5 * 3000 + 1000
    ade = load_config("upernet/convnext_t_512_160k")
    disk = disk_of(ade.default_hooks.checkpoint, span_of(ade.train_cfg, 1264), 3000, 1000)
    assert (disk.regular, disk.best) == (2, 1)


# ---- batches that do not fit


class Greedy(torch.nn.Module):
    """A model whose step takes ``mib`` MiB per image; more images than ``most`` are too many for its GPU."""

    def __init__(self, mib: int, most: int = 99) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.most = most
        self.mib = mib
        self.tried: list[int] = []

    def train_step(self, batch: dict, optim_wrapper: object) -> dict:
        images = len(batch["inputs"])
        self.tried.append(images)
        if images > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return dict(loss=torch.ones(images * self.mib * 2**18).mean())


def greedy_samples() -> Samples:
    return Samples([dict(inputs=torch.zeros(3, 8, 8))], Largest((8, 8), (8, 8)), "made up")


LARGE = 160  # MiB per image: no need to try more images


def test_steps_in_their_order():
    model = Greedy(mib=LARGE)
    measured = measure_steps(model, None, greedy_samples(), 3)
    assert model.tried == [1, 1, 3, 3], "one without measurement, one of one image, two of the batch"
    assert measured.seconds > 0
    assert measured.loss == 1
    if not measured.peaks:
        pytest.skip("this system does not report memory use")
    model = Greedy(mib=LARGE)
    measure_steps(model, None, greedy_samples(), 2, least=2)
    assert model.tried == [2, 2, 2, 3]
    model = Greedy(mib=40)
    measured = measure_steps(model, None, greedy_samples(), 2)
    assert model.tried == [1, 1, 2, 2, 4], "small ones, until memory is large enough to be measured"
    assert measured.line.per_image == pytest.approx(40 * 2**20, rel=0.1)


def test_a_batch_that_is_too_large_for_the_gpu():
    model = Greedy(most=2, mib=LARGE)
    measured = measure_steps(model, None, greedy_samples(), 4)
    assert measured.seconds is None
    if not measured.peaks:
        pytest.skip("this system does not report memory use")
    assert model.tried == [1, 1, 4, 2], "then a smaller one, so that the report can say what fits"
    assert measured.line.per_image == pytest.approx(LARGE * 2**20, rel=0.1)


def test_a_batch_that_is_too_large_for_the_machine_is_not_tried(monkeypatch):
    model = Greedy(mib=100)
    monkeypatch.setattr(steps, "available_memory", lambda device: 300 * 2**20)
    measured = measure_steps(model, None, greedy_samples(), 4)
    if not measured.peaks:
        pytest.skip("this system does not report memory use")
    assert measured.seconds is None
    assert max(model.tried) == 2


def test_a_batch_that_does_not_fit_is_a_problem(made, monkeypatch):
    free = 600 * 2**20  # an image of the demo takes about 25 MiB
    monkeypatch.setattr(steps, "available_memory", lambda device: free)
    monkeypatch.setattr(mmengine_device, "DEVICE", "cpu")  # a GPU's memory is found out by trying
    ready, topics, text = run(demo("coco", made, **{"train_dataloader.batch_size": 64}))
    if "not reported" in topics["memory"]:
        pytest.skip("this system does not report memory use")
    assert not ready
    (problem,) = [line for line in text.splitlines() if line.startswith("PROBLEM")]
    assert "a batch of 64 x 160x160 does not fit, 0.6 GiB were free on cpu" in problem
    told = re.search(r"about (\d+) images may: lower train_dataloader.batch_size", problem)
    assert 8 < int(told[1]) < 40
    assert "run" not in topics
