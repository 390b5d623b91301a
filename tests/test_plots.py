"""Pictures from records: what is drawn, and what is refused."""

import json

import cv2
import numpy as np
import pytest

pytest.importorskip("matplotlib")

from convnext_dense import plots

CLASSES = ("disc", "box")


def colour_of(index: int) -> np.ndarray:
    text = plots.COLOURS[index]
    return np.array([int(text[i : i + 2], 16) for i in (1, 3, 5)])


def drawn(path) -> np.ndarray:
    return cv2.imread(str(path))[..., ::-1].astype(int)


def has_colour(picture: np.ndarray, colour: np.ndarray, tolerance: int = 12) -> bool:
    return bool((np.abs(picture - colour).max(axis=2) <= tolerance).sum() > 50)


@pytest.fixture
def image() -> np.ndarray:
    return np.full((40, 60, 3), 128, np.uint8)


@pytest.fixture
def instance() -> plots.Instance:
    mask = np.zeros((40, 60), bool)
    mask[10:20, 5:25] = True
    return plots.Instance(1, mask, (5, 10, 20, 10))


def test_scalars_are_those_of_the_newest_run(tmp_path):
    for stamp, loss in (("20240101_000000", 1.0), ("20240102_000000", 2.0)):
        folder = tmp_path / stamp / "vis_data"
        folder.mkdir(parents=True)
        (folder / "scalars.json").write_text(json.dumps({"loss": loss, "step": 1}) + "\n")
    assert plots.read_scalars(tmp_path) == [{"loss": 2.0, "step": 1}]


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing was trained"):
        plots.read_scalars(tmp_path)


def test_loss_curves_leave_out_what_is_no_loss():
    records = [
        {"step": 20, "loss_cls": 1.0, "acc": 90.0, "decode.loss_ce": 3.0, "loss": 4.0, "lr": 0.1},
        {"step": 40, "loss_cls": 0.5, "loss": 2.0},
        {"step": 40, "coco/bbox_mAP": 0.5},
    ]
    curves = plots.loss_curves(records)
    assert next(iter(curves)) == "loss"
    assert curves == {"loss": ([20, 40], [4.0, 2.0]), "loss_cls": ([20, 40], [1.0, 0.5]),
                      "decode.loss_ce": ([20], [3.0])}  # fmt: skip


def test_curves_of_two_runs_are_drawn(tmp_path):
    records = [{"step": step, "loss": 10 / step, "loss_cls": 5 / step} for step in (1, 2, 3)]
    plots.plot_training(tmp_path / "new" / "curves.png", {"a": records, "b": records})
    picture = drawn(tmp_path / "new" / "curves.png")
    assert picture.shape[1] > 2 * picture.shape[0]
    assert has_colour(picture, colour_of(0))


@pytest.mark.parametrize(("runs", "message"), [({}, "no runs"), ({"a": [{"step": 1}]}, "a: no loss")])
def test_curves_without_losses_are_refused(tmp_path, runs, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_training(tmp_path / "curves.png", runs)


def test_a_detection_shows_in_its_class_colour(tmp_path, image, instance):
    plots.detection_sheet(tmp_path / "sheet.png", [image], [[]], [[instance]], CLASSES)
    picture = drawn(tmp_path / "sheet.png")[: -int(0.4 * 130)]  # without the legend
    middle = picture.shape[1] // 2
    tint = 0.45 * 128 + 0.55 * colour_of(1)
    assert not has_colour(picture[:, :middle], tint), "the truth has no instance"
    assert has_colour(picture[:, middle:], tint)


def test_a_segmentation_shows_classes_but_not_the_background(tmp_path, image, instance):
    truth = instance.mask * 2
    plots.segmentation_sheet(
        tmp_path / "sheet.png", [image], [truth], [np.zeros_like(truth)], ("background", *CLASSES)
    )
    picture = drawn(tmp_path / "sheet.png")[: -int(0.4 * 130)]
    middle = picture.shape[1] // 2
    tint = 0.2 * 128 + 0.8 * colour_of(1)
    assert has_colour(picture[:, :middle], tint)
    assert not has_colour(picture[:, middle:], tint)


@pytest.mark.parametrize("count", [1, 3, 5, 12])
def test_any_number_of_images_fits(tmp_path, image, instance, count):
    plots.detection_sheet(
        tmp_path / "sheet.png", [image] * count, [[instance]] * count, [[]] * count, CLASSES
    )
    assert (tmp_path / "sheet.png").stat().st_size > 0


@pytest.mark.parametrize("counts", [(0, 0, 0), (2, 1, 2), (2, 2, 1)])
def test_unequal_counts_are_refused(tmp_path, image, counts):
    images, truths, predictions = counts
    with pytest.raises(ValueError, match="as many of each"):
        plots.detection_sheet(
            tmp_path / "sheet.png", [image] * images, [[]] * truths, [[]] * predictions, CLASSES
        )
