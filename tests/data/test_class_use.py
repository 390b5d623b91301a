"""What label maps and annotation files leave to learn, counted by hand."""

import pytest

from convnext_dense.data.class_use import absent_classes, map_use, object_use, trained_values

NAMES = ("ground", "box", "sky")


@pytest.mark.parametrize(
    ("shifts", "label_map", "ignored", "expected"),
    [
        (False, None, 255, {0: "ground", 1: "box", 2: "sky"}),
        (True, None, 255, {1: "ground", 2: "box", 3: "sky"}),
        (False, {0: 255, 1: 0, 2: 1}, 255, {1: "box", 2: "sky"}),
        (False, None, 0, {1: "box", 2: "sky"}),  # ignore_index is a class
    ],
)
def test_trained_values(shifts, label_map, ignored, expected):
    assert trained_values(NAMES, shifts, label_map, ignored) == expected


def test_a_binary_mask_with_255_leaves_nothing_to_learn():
    notes, stop = map_use({0: "bg", 1: "thing"}, [(0, 255)] * 3, 3, "maps").lines()
    assert notes == []
    assert stop.startswith("nothing to learn: 1 of 2 classes occur in none of the 3 label maps of maps")
    for part in (
        "thing (value 1)",
        "255 (ignored) is in all of them",
        "bg (value 0) holds all the labels",
        "write the values of the classes, 0 to 1, not 255, into the maps",
    ):
        assert part in stop


@pytest.mark.parametrize(
    ("held", "total", "trains", "stops", "noted"),
    [
        ([(0, 1), (2, 255)], 2, True, False, ""),
        ([(0, 1), (0,)], 2, True, False, "1 of 3 classes occur in none of the 2 label maps of maps: sky"),
        ([(0,), (0,)], 2, True, True, ""),
        ([(0,), (0,)], 9, True, False, "2 label maps opened (of 9)"),  # the others may have more
        ([(0,)], 1, False, False, "box (value 1), sky (value 2)"),  # a test set may show one class
        ([(255,)], 1, False, True, ""),
        ([], 5, True, False, ""),
    ],
)
def test_stops_and_notes(held, total, trains, stops, noted):
    notes, stop = map_use(dict(enumerate(NAMES)), held, total, "maps").lines(trains)
    assert (stop is not None) == stops
    assert noted in "".join(notes) and bool(notes) == bool(noted)


def test_a_first_class_that_is_taken_for_unlabelled():
    classes = trained_values(NAMES, True, None, 255)
    (note,), _ = map_use(classes, [(0, 1, 2)], 1, "maps", shifts=True).lines()
    assert "sky (value 3)" in note and "if 0 is a class, set reduce_zero_label=False" in note


# ---- boxes and masks


def content(*annotations: dict, sides=(64, 64)) -> dict:
    box = dict(category_id=1, image_id=1, bbox=[4, 4, 20, 20], iscrowd=0)
    return dict(
        images=[dict(id=1, width=sides[0], height=sides[1])],
        annotations=[{**box, **annotation} for annotation in annotations],
        categories=[dict(id=1, name="nut"), dict(id=2, name="bolt")],
    )


@pytest.mark.parametrize(
    ("annotation", "more", "said"),
    [
        (dict(iscrowd=1), dict(without_mask=1), "1 without a usable mask (segmentation); give outlines"),
        (dict(iscrowd=1), {}, "1 crowds (iscrowd); iscrowd=1 marks regions to ignore"),
        (dict(category_id=2), {}, "1 of other categories (bolt); the classes asked for are nut"),
        ({}, dict(filter_cfg=dict(min_size=65)), "filter_cfg keeps none of its 1 images; lower min_size"),
        (dict(bbox=[4, 4, 0.5, 20]), {}, "1 of boxes below one pixel"),
        (dict(ignore=True), {}, "1 marked to be ignored"),
    ],
)
def test_annotations_that_mmdet_does_not_train_on(annotation, more, said):
    use = object_use(content(annotation), ["nut"], "a.json", **more)
    stop = use.stop()
    assert stop.startswith("nothing to learn from a.json: none of its 1 annotations can be trained on: ")
    assert said in stop


def test_one_object_is_enough_and_absent_classes_are_named():
    use = object_use(content({}, dict(iscrowd=1)), ["nut", "bolt"], "a.json", filter_cfg=dict(min_size=32))
    assert use.stop() is None and use.per_class == {"nut": 1, "bolt": 0}
    expected = "1 of 2 classes have no annotation to train on in a.json: bolt"
    assert absent_classes([use]) == expected
    other = object_use(content(dict(category_id=2)), ["nut", "bolt"], "b.json")
    assert absent_classes([use, other]) is None


def test_an_empty_file():
    assert "none of its 0 annotations" in object_use(content(), ["nut"], "a.json").stop()
