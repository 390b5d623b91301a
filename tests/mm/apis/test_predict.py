"""Which images are predicted, where their outputs go, and what one bad image costs."""

import json

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, PixelData
from PIL import Image

from convnext_dense.data.image_io import read_picture
from convnext_dense.errors import UserError
from convnext_dense.export.outputs import find_images
from convnext_dense.mm.apis.predict import predict_images


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(path)
    return path


class Predictor:
    """Finds class 1 everywhere; fails on images whose name says so."""

    classes = ("ground", "thing")

    class visualizer:
        @staticmethod
        def add_datasample(name, picture, out_file, **options):
            Image.fromarray(picture).save(out_file)

    def __call__(self, path):
        read_picture(path.read_bytes())  # as the config's loader does
        if "bad" in path.name:
            raise RuntimeError("the model fails")
        if "stop" in path.name:
            raise KeyboardInterrupt
        sample = BaseDataElement(metainfo=dict(img_path=str(path), ori_shape=(4, 6)))
        sample.pred_sem_seg = PixelData(data=torch.ones(1, 4, 6, dtype=torch.long))
        return sample

    def as_json(self, sample, score_thr):
        return {"thing": 1.0}


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_hidden_files_and_earlier_predictions_are_no_inputs(tmp_path):
    wanted = [image(tmp_path / "p" / name) for name in ("UPPER.JPEG", "a.jpg", "sub/b.png")]
    image(tmp_path / "p/._a.jpg")
    image(tmp_path / "p/.cache/c.jpg")
    image(tmp_path / "p/found/a.png")
    (tmp_path / "p/found/predictions.json").write_text("{}")
    assert find_images([str(tmp_path / "p"), str(wanted[0])]) == wanted
    assert find_images([str(tmp_path / "p/found")]) == [tmp_path / "p/found/a.png"], "it was named"
    with pytest.raises(UserError, match="no image or folder"):
        find_images([str(tmp_path / "absent")])


def test_every_image_keeps_its_outputs(tmp_path):
    images = [image(tmp_path / name) for name in ("monday/1.jpg", "tuesday/1.jpg", "tuesday/1.png")]
    assert [reason for _, reason in predict_images(Predictor(), images, tmp_path / "out", 0.3)] == [None] * 3
    names = ("monday/1", "tuesday/1.jpg", "tuesday/1.png")
    expected = [f"{name}{end}" for name in names for end in (".png", "_labels.png")]
    assert files(tmp_path / "out") == sorted([*expected, "outputs.json", "predictions.json"])
    assert len(json.loads((tmp_path / "out/predictions.json").read_text())) == 3
    assert np.asarray(Image.open(tmp_path / "out/monday/1_labels.png")).min() == 1


def test_a_bad_image_costs_itself_and_ctrl_c_keeps_what_is_done(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    images = [
        tmp_path / "broken.jpg",
        *(image(tmp_path / name) for name in ("bad.jpg", "ok.jpg", "stop.jpg")),
    ]
    said = []
    with pytest.raises(KeyboardInterrupt):
        said.extend(predict_images(Predictor(), images, tmp_path / "out", 0.3))
    assert list(json.loads((tmp_path / "out/predictions.json").read_text())) == [str(tmp_path / "ok.jpg")]
    assert json.loads((tmp_path / "out/outputs.json").read_text()) == {str(tmp_path / "ok.jpg"): "ok"}
    (_, first), (_, second) = list(predict_images(Predictor(), images[:2], tmp_path / "again", 0.3))
    assert first and second == "RuntimeError: the model fails"


def test_a_second_run_keeps_the_results_of_other_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = image(tmp_path / "a/1.jpg"), image(tmp_path / "b/1.jpg")
    third = image(tmp_path / "a/b/1.jpg")
    for images in ([first], [second], [second, third]):
        list(predict_images(Predictor(), images, tmp_path / "out", 0.3))
    assert list(json.loads((tmp_path / "out/predictions.json").read_text())) == list(
        map(str, (first, second, third))
    )
    pictures = [name for name in files(tmp_path / "out") if not name.endswith(("_labels.png", ".json"))]
    assert pictures == ["1.png", "a/b/1.png", "b/1.png"]


def test_outputs_of_another_image_are_not_overwritten_whatever_their_names(tmp_path):
    first = [image(tmp_path / f"p/x/{name}/1.jpg") for name in "ab"]
    second = image(tmp_path / "p/a/1.jpg")
    for images in (first, [second], [second]):
        list(predict_images(Predictor(), images, tmp_path / "out", 0.3))
    assert len(json.loads((tmp_path / "out/predictions.json").read_text())) == 3
    pictures = [name for name in files(tmp_path / "out") if not name.endswith(("_labels.png", ".json"))]
    assert pictures == ["a/1.png", "a/1_2.png", "b/1.png"]
