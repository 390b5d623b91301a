"""Matches, confusions and mistakes on scenes small enough to judge by eye."""

import json

import numpy as np
import pytest

pytest.importorskip("pycocotools")

from convnext_dense.evaluation.detection_errors import confusion, image_quality, match, mistakes, read_scenes

CLASSES = ("cat", "dog")
IDS = {"cat": 4, "dog": 9}
FAR = [70, 70, 20, 20]


def truth(name: str, box: list[float], crowd: int = 0) -> dict:
    x, y, w, h = box
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    entry = dict(image_id=1, category_id=IDS[name], bbox=box, area=w * h, iscrowd=crowd)
    if not crowd:
        return {**entry, "segmentation": [polygon]}
    # uncompressed run lengths of a box in a picture of 100 x 100, column by column
    counts, column = [100 * x + y], [h, 100 - h]
    counts += (column * w)[:-1]
    counts.append(10_000 - sum(counts))
    return {**entry, "segmentation": dict(size=[100, 100], counts=counts)}


def found(name: str, box: list[float], score: float = 0.9) -> dict:
    return dict(image_id=1, category_id=IDS[name], bbox=box, score=score)


def scenes(tmp_path, truths: list[dict], detections: list[dict]):
    annotations = [{**entry, "id": i + 1} for i, entry in enumerate(truths)]
    categories = [dict(id=number, name=name) for name, number in IDS.items()]
    images = [dict(id=1, file_name="1.jpg", width=100, height=100)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return read_scenes(path, detections, CLASSES)


HERE = [10, 10, 40, 40]
CASES = {
    "right": ([truth("cat", HERE)], [found("cat", HERE)], []),
    "class": ([truth("cat", HERE)], [found("dog", HERE)], [("class", "dog", "cat")]),
    "duplicate": (
        [truth("cat", HERE)],
        [found("cat", HERE), found("cat", [11, 11, 40, 40], 0.8)],
        [("duplicate", "cat", "cat")],
    ),
    # 20 of 60 columns are common: IoU 1/3
    "location": (
        [truth("cat", HERE)],
        [found("cat", [30, 10, 40, 40])],
        [("location", "cat", "cat"), ("missed", None, "cat")],
    ),
    "background": (
        [truth("cat", HERE)],
        [found("dog", FAR), found("cat", HERE)],
        [("background", "dog", None)],
    ),
    "missed": ([truth("cat", HERE), truth("dog", FAR)], [found("dog", FAR)], [("missed", None, "cat")]),
    "crowd": ([truth("cat", [5, 5, 80, 80], crowd=1)], [found("cat", [20, 20, 20, 20])], []),
    "unsure": ([], [found("cat", HERE, 0.2)], []),
    # the dog is found as a dog, so a confident cat there is a class mistake although the dog is matched
    "taken": (
        [truth("dog", HERE)],
        [found("cat", HERE, 0.99), found("dog", HERE, 0.5)],
        [("class", "cat", "dog")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_kind_of_mistake_is_found(tmp_path, case):
    truths, detections, expected = CASES[case]
    made = mistakes(scenes(tmp_path, truths, detections))
    names = [(m.kind, *(None if i is None else CLASSES[i] for i in (m.label, m.truth))) for m in made]
    assert names == expected


def test_the_most_confident_mistake_comes_first_and_the_largest_miss(tmp_path):
    truths = [truth("cat", [0, 0, 10, 10]), truth("dog", [50, 50, 30, 30])]
    detections = [found("cat", [80, 0, 15, 15], s) for s in (0.4, 0.95, 0.7)]
    made = mistakes(scenes(tmp_path, truths, detections))
    assert [m.score for m in made] == [0.95, 0.7, 0.4, 0, 0]
    assert [m.truth for m in made[3:]] == [1, 0]


def test_confusions_are_counted_with_what_is_not_there(tmp_path):
    truths = [truth("cat", HERE), truth("dog", FAR), truth("cat", [60, 0, 20, 20])]
    detections = [found("cat", HERE), found("cat", FAR), found("dog", [0, 70, 20, 20])]
    table = confusion(scenes(tmp_path, truths, detections))
    #               cat  dog  nothing
    expected = [[1, 0, 1], [1, 0, 0], [0, 1, 0]]
    np.testing.assert_array_equal(table, expected)


def test_every_object_is_matched_once_and_its_own_class_goes_first(tmp_path):
    made = scenes(
        tmp_path, [truth("cat", HERE)], [found("dog", HERE, 0.95), found("cat", [12, 10, 40, 40], 0.6)]
    )
    partner, in_crowd = match(made.found[1], made.truths[1])
    assert partner.tolist() == [-1, 0]
    assert not in_crowd.any()


def test_quality_is_the_panoptic_one(tmp_path):
    # one match of IoU 1600 / 2000 = 0.8, one detection too many, two objects missed: 0.8 / (1 + 3 / 2)
    truths = [truth("cat", [0, 0, 50, 40]), truth("dog", FAR), truth("dog", [60, 0, 10, 10])]
    detections = [found("cat", [0, 0, 40, 40]), found("cat", FAR)]
    made = scenes(tmp_path, truths, detections)
    assert image_quality(made.found[1], made.truths[1]) == pytest.approx(0.8 / 2.5)
    nothing = scenes(tmp_path, [], [])
    assert image_quality(nothing.found[1], nothing.truths[1]) is None


def test_masks_count_where_there_are_masks(tmp_path):
    from pycocotools import mask as rle

    mask = np.zeros((100, 100), np.uint8)
    mask[10:50, 10:50] = 1
    code = rle.encode(np.asfortranarray(mask))
    detection = {**found("cat", FAR), "segmentation": dict(size=code["size"], counts=code["counts"].decode())}
    assert mistakes(scenes(tmp_path, [truth("cat", HERE)], [detection])) == []


@pytest.mark.parametrize("outline", [None, []])
def test_objects_with_boxes_alone_are_matched_by_their_boxes(tmp_path, outline):
    boxed = {key: value for key, value in truth("cat", HERE).items() if key != "segmentation"}
    if outline is not None:
        boxed["segmentation"] = outline
    read = scenes(tmp_path, [boxed, truth("dog", FAR)], [found("cat", HERE), found("cat", FAR)])
    assert [(m.kind, m.label) for m in mistakes(read)] == [("class", 0)]
    assert confusion(read).tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]
