"""The predictor on models made by hand: sizes, scales and windows are those of mmcv, mmdet and mmseg."""

import json
import subprocess
import sys

import cv2
import mmcv
import numpy as np
import pytest
import torch
from onnx_models import CLASSES, PALETTE, detector, segmentor, whole_image_detector
from PIL import Image
from pycocotools import mask as coco_mask
from repository import ROOT
from torch.nn import functional as F

import convnext_dense.mm  # noqa: F401  (puts the ops in place before mmdet is imported)
from convnext_dense.errors import UserError
from convnext_dense.export.runtime import Predictor, main, original_boxes

RNG = np.random.default_rng(0)
PICTURE = cv2.resize(RNG.integers(0, 256, (9, 12, 3), np.uint8), (200, 150))
BOXES = [[10, 8, 50, 60], [0, 0, 84, 64], [30, 20, 40, 30]]
SCORES, LABELS = [0.9, 0.5, 0.2], [1, 2, 0]
BLOB = np.clip(np.hypot(*np.mgrid[-1:1:28j, -1:1:28j]), 0, 1)[None].repeat(3, 0)
WEIGHT = RNG.normal(size=(3, 3)) / 50
BIAS = -WEIGHT.sum(1) * 127


@pytest.fixture
def image(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def network_wh(scale=(96, 64)):
    return mmcv.rescale_size((200, 150), scale)


# ---- detectors


@pytest.mark.parametrize("masks", [True, False])
def test_boxes_are_rescaled_as_in_mmdet(masks):
    from mmdet.structures.bbox import scale_boxes

    wh = network_wh((1333, 800))
    factors = wh[0] / 200, wh[1] / 150
    boxes = RNG.uniform(0, 800, (500, 4)).astype(np.float32)
    if masks:
        expected = torch.tensor(boxes) / torch.tensor(factors).repeat((1, 2))
    else:
        expected = scale_boxes(torch.tensor(boxes), [1 / factor for factor in factors])
    assert np.array_equal(original_boxes(boxes, factors, masks), expected.numpy())


def test_detections_and_their_json(tmp_path, image):
    predictor = Predictor(detector(tmp_path / "m.onnx", BOXES, SCORES, LABELS, BLOB), threads=1)
    found = predictor(image)
    assert predictor.classes == CLASSES
    w, h = network_wh()
    expected = np.array(BOXES) / [w / 200, h / 150, w / 200, h / 150]
    np.testing.assert_allclose(found["boxes"], expected, rtol=1e-6)
    assert found["labels"].tolist() == LABELS and len(found["masks"]) == 3
    entries = predictor.as_json(found, 0.3)
    assert [entry["category_name"] for entry in entries] == ["thing", "other"]
    x1, y1, x2, y2 = expected[0]
    assert entries[0]["bbox"] == [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)]
    assert entries[0]["score"] == 0.9 and entries[0]["category_id"] == 1
    rle = entries[0]["segmentation"]
    assert np.array_equal(coco_mask.decode(rle), found["masks"][0].full()) and rle["size"] == [150, 200]
    json.dumps(entries)
    assert len(predictor(image, score_thr=0.6)["boxes"]) == 1
    drawing = np.asarray(predictor.draw(image, found, 0.6))
    assert drawing.shape == PICTURE.shape and (drawing == PALETTE[1]).all(2).any()
    assert not (drawing == PALETTE[2]).all(2).any()


def test_the_json_is_that_of_the_pytorch_predictor(tmp_path, image):
    from mmengine.structures import BaseDataElement, InstanceData

    from convnext_dense.mm.apis.predict import Predictor as PyTorchPredictor

    predictor = Predictor(detector(tmp_path / "m.onnx", BOXES, SCORES, LABELS, BLOB), threads=1)
    found = predictor(image)
    tensors = {name: torch.tensor(found[name]) for name in ("scores", "labels")}
    masks = torch.tensor(np.stack([mask.full() for mask in found["masks"]]))
    sample = BaseDataElement()
    sample.pred_instances = InstanceData(bboxes=torch.tensor(found["boxes"]), masks=masks, **tensors)
    other = PyTorchPredictor.__new__(PyTorchPredictor)
    other.classes = CLASSES
    assert predictor.as_json(found, 0.3) == other.as_json(sample, 0.3)


def test_no_detections(tmp_path, image):
    predictor = Predictor(detector(tmp_path / "m.onnx", [], [], [], np.zeros((0, 28, 28))), threads=1)
    found = predictor(image)
    assert found["boxes"].shape == (0, 4) and found["masks"] == [] and predictor.as_json(found, 0.3) == []
    assert np.array_equal(np.asarray(predictor.draw(image, found, 0.3)), PICTURE)


@pytest.mark.parametrize("hw", [(64, 96), (96, 64), (300, 300)])
def test_a_network_of_one_size_gets_the_valid_part(tmp_path, image, hw):
    found = Predictor(whole_image_detector(tmp_path / "m.onnx", hw), threads=1)(image)
    np.testing.assert_allclose(found["boxes"], [[0, 0, 200, 150]], atol=1e-4)


# ---- segmentors


def logits_by_torch(pixels):
    tensor = torch.tensor(pixels).permute(2, 0, 1)[None].float()
    return F.conv2d(tensor, torch.tensor(WEIGHT).float()[:, :, None, None], torch.tensor(BIAS).float())


def labels_by_torch(scale=(96, 64), keep_ratio=True):
    wh = network_wh(scale) if keep_ratio else scale
    logits = logits_by_torch(cv2.resize(PICTURE, wh))
    return F.interpolate(logits, (150, 200), mode="bilinear")[0].argmax(0).numpy()


@pytest.mark.parametrize("entries", [{}, {"scale": (130, 50), "keep_ratio": False}])
def test_a_segmentor_of_whole_pictures(tmp_path, image, entries):
    predictor = Predictor(segmentor(tmp_path / "m.onnx", WEIGHT, BIAS, **entries), threads=1)
    labels = predictor(image)["label_map"]
    assert labels.dtype == np.uint8 and len(np.unique(labels)) == 3
    assert np.array_equal(labels, labels_by_torch(**entries))
    shares = predictor.as_json({"label_map": labels}, 0.3)
    assert shares == {name: round((labels == i).mean().item(), 4) for i, name in enumerate(CLASSES)}


@pytest.mark.parametrize("entries", [{}, {"fixed_hw": (48, 48)}, {"fixed_hw": (40, 48), "crop_hw": (40, 48)}])
def test_windows_of_a_segmentor_without_context_change_nothing(tmp_path, image, entries):
    entries = {"mode": "slide", "crop_hw": (32, 48), "stride_hw": (21, 32), **entries}
    predictor = Predictor(segmentor(tmp_path / "m.onnx", WEIGHT, BIAS, **entries), threads=1)
    assert (predictor(image)["label_map"] == labels_by_torch()).mean() > 0.9999


def test_a_network_of_one_size_for_whole_pictures(tmp_path, image):
    predictor = Predictor(segmentor(tmp_path / "m.onnx", WEIGHT, BIAS, fixed_hw=(64, 64)), threads=1)
    expected = F.interpolate(logits_by_torch(cv2.resize(PICTURE, (64, 48))), (150, 200), mode="bilinear")
    assert np.array_equal(predictor(image)["label_map"], expected[0].argmax(0).numpy())


def test_labels_of_the_network_are_resized_to_the_nearest(tmp_path):
    entries = {"output": "labels", "scale": (200, 150)}
    predictor = Predictor(segmentor(tmp_path / "m.onnx", WEIGHT, BIAS, **entries), threads=1)
    expected = logits_by_torch(PICTURE)[0].argmax(0).numpy()
    assert np.array_equal(predictor(PICTURE)["label_map"], expected)


def test_a_binary_segmentor(tmp_path, image):
    model = segmentor(tmp_path / "m.onnx", WEIGHT[:1], BIAS[:1], binary_threshold=0.3, classes=("no", "yes"))
    logits = F.interpolate(logits_by_torch(cv2.resize(PICTURE, network_wh())), (150, 200), mode="bilinear")
    expected = logits[0, 0].sigmoid() > 0.3
    labels = Predictor(model, threads=1)(image)["label_map"]
    assert 0.1 < labels.mean() < 0.9 and np.array_equal(labels, expected.numpy())


# ---- bad input


def test_arrays_that_are_no_pictures(tmp_path):
    predictor = Predictor(segmentor(tmp_path / "m.onnx", WEIGHT, BIAS), threads=1)
    for array in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(UserError, match=r"a picture is \(H, W, 3\) uint8"):
            predictor(array)


# ---- the command


def run(*arguments) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code


def test_the_command_writes_the_files_of_tools_predict(tmp_path, image, capsys):
    (tmp_path / "in/sub").mkdir(parents=True)
    for name in ("a.jpg", "sub/a.png", "b.webp"):
        Image.fromarray(PICTURE).save(tmp_path / "in" / name)
    (tmp_path / "in/broken.png").write_bytes(image.read_bytes()[:2000])
    model = segmentor(tmp_path / "m.onnx", WEIGHT, BIAS)
    out = tmp_path / "out"
    assert run(model, tmp_path / "in", "--out", out, "--threads", 1) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"left out {tmp_path / 'in/broken.png'}: image file is truncated")
    assert said[1] == f"3 pictures and predictions.json in {out}" and len(said) == 2
    names = ["a", "b", "sub/a"]
    written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    expected = [f"{name}{end}" for name in names for end in (".png", "_labels.png")]
    assert written == sorted([*expected, "outputs.json", "predictions.json"])
    results = json.loads((out / "predictions.json").read_text())
    labels = np.asarray(Image.open(out / "sub/a_labels.png"))
    assert np.array_equal(labels, labels_by_torch())
    assert results[str(tmp_path / "in/sub/a.png")]["thing"] == round((labels == 1).mean().item(), 4)
    assert json.loads((out / "outputs.json").read_text())[str(tmp_path / "in/b.webp")] == "b"


def test_what_ends_the_command_in_one_line(tmp_path, image, capsys):
    model = segmentor(tmp_path / "m.onnx", WEIGHT, BIAS)
    (tmp_path / "bad.onnx").write_text("hello")
    for arguments, said in (
        ((tmp_path / "absent.onnx", image), "no model at"),
        ((tmp_path / "bad.onnx", image), "bad.onnx: "),
        ((model, tmp_path / "absent.png"), "no image or folder at"),
        ((model, image, "--out", model), "File exists"),
    ):
        assert run(*arguments, "--threads", 1) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and said in lines[0]


def test_a_picture_never_overwrites_an_input_and_all_left_out_is_a_failure(tmp_path, image, capsys):
    model = segmentor(tmp_path / "m.onnx", WEIGHT, BIAS)
    before = image.read_bytes()
    assert run(model, image, "--out", image.parent, "--threads", 1) == 1
    assert image.read_bytes() == before and "is an input image" in capsys.readouterr().out


BLOCKED = (
    *("torch", "torchvision", "cv2", "mmengine", "mmcv", "mmdet", "mmseg", "pycocotools", "tqdm"),
    *("filelock", "safetensors", "packaging", "onnx", "matplotlib", "scipy"),
)


def test_numpy_pillow_and_onnxruntime_are_enough(tmp_path, image):
    """In a process where all else of the package's requirements is blocked."""
    model = detector(tmp_path / "m.onnx", BOXES, SCORES, LABELS, BLOB)
    arguments = ["runtime", str(model), str(image), "--out", str(tmp_path / "out"), "--threads", "1"]
    code = f"""
import runpy, sys
for name in {BLOCKED}: sys.modules[name] = None
sys.argv = {arguments}
runpy.run_module("convnext_dense.export.runtime", run_name="__main__")
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    (entries,) = json.loads((tmp_path / "out/predictions.json").read_text()).values()
    assert [entry["score"] for entry in entries] == [0.9, 0.5]
    assert Image.open(tmp_path / "out/picture.png").size == (200, 150)


def test_importing_the_runtime_imports_no_torch():
    code = "import sys, convnext_dense.export.runtime; sys.exit(bool({'torch', 'cv2'} & {*sys.modules}))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
