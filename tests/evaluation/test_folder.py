"""Counted pixels against sums made one by one, and the folder of an evaluation."""

import os

import numpy as np
import pytest

from convnext_dense.evaluation.folder import (
    Evaluation,
    class_accuracy,
    class_iou,
    count_pixels,
    segmentation_classes,
    segmentation_metrics,
)

TRUTH = np.array([[0, 0, 1, 1], [2, 2, 255, 255]])
FOUND = np.array([[0, 1, 1, 1], [2, 0, 3, 0]])


def test_pixels_are_counted_by_pair_without_the_ignored():
    counts = count_pixels(TRUTH, FOUND, 4, 255)
    assert counts.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    rng = np.random.default_rng(0)
    truth, found = rng.integers(0, 7, (2, 40, 50))
    counts = count_pixels(truth, found, 7, 6)
    slow = np.zeros((7, 7), int)
    for t, f in zip(truth.flat, found.flat, strict=True):
        slow[t, f] += t != 6
    np.testing.assert_array_equal(counts, slow)


def test_figures_of_the_classes_by_hand():
    counts = count_pixels(TRUTH, FOUND, 4, 255)
    # hits, there, found: 1, 2, 2 of the first class, 2, 2, 3 of the second, 1, 2, 1 of the third
    np.testing.assert_allclose(class_iou(counts), [100 / 3, 200 / 3, 50, np.nan])
    np.testing.assert_allclose(class_accuracy(counts), [50, 100, 50, np.nan])
    metrics = segmentation_metrics(counts)
    assert metrics == pytest.approx({"mIoU": 50, "aAcc": 400 / 6, "mAcc": 200 / 3})
    table = segmentation_classes(counts, ("a", "b", "c", "d"))
    assert table["c"] == dict(IoU=50.0, accuracy=50.0) and table["d"] == dict(IoU=None, accuracy=None)


def test_an_evaluation_reads_back(tmp_path):
    made = Evaluation(
        folder=tmp_path / "e", task="segmentation", classes=("a", "b"), images="i", annotations="a",
        record=dict(kind="accuracy", metrics={"mIoU": 1.5}), per_class={"a": {"IoU": None}},
        scenes=(dict(image="x", miou=None),), ignore_index=9, reduce_zero_label=True,
        arrays=dict(confusion=np.arange(4).reshape(2, 2)),
    )  # fmt: skip
    made.save()
    read = Evaluation.load(tmp_path / "e")
    assert read == made
    np.testing.assert_array_equal(read.arrays["confusion"], made.arrays["confusion"])


def test_a_folder_without_an_evaluation_says_how_to_get_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tools/test\.py CONFIG CHECKPOINT"):
        Evaluation.load(tmp_path)


def test_of_a_run_the_evaluation_that_was_written_last_is_read(tmp_path):
    for age, name in enumerate(("evaluation_2", "evaluation", "evaluation_3")):
        made = Evaluation(tmp_path / name, "detection", ("a",), "i", "a", record={"name": name}, per_class={})
        made.save()
        os.utime(tmp_path / name / "evaluation.json", (1000 - age, 1000 - age))
    assert Evaluation.load(tmp_path).record["name"] == "evaluation_2"
    assert Evaluation.load(tmp_path / "evaluation").record["name"] == "evaluation"
