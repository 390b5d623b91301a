"""Each fault of an annotation file is found, counted, named and repaired as its row says."""

import copy
import json
import math
import time

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from convnext_dense.data.coco_masks import is_polygon, is_rle, repair_mask, run_lengths
from convnext_dense.data.coco_repair import (
    KINDS,
    AnnotationFileError,
    box_fault,
    repair,
    repair_annotation,
    repair_box,
)

SIZE = (40, 30)
NAN, INF = math.nan, math.inf
TRIANGLE = [5, 5, 15, 5, 10, 20]


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        ([1, 2, 3, 4], None),
        ([0, 0, 40, 30], None),
        ([-0.5, 0, 41, 30.9], None),  # rounding
        ([-2, 0, 10, 10], "border"),
        ([35, 25, 10, 10], "border"),
        ([40, 0, 5, 5], "outside"),
        ([0, -9, 5, 9], "outside"),
        ([-7, 0, 5, 5], "outside"),
        ([5, 5, 0, 9], "empty box"),
        ([5, 5, 9, -3], "empty box"),
        ([5, 5, NAN, 3], "no box"),
        ([5, INF, 1, 3], "no box"),
        ([5, INF, -INF, 3], "no box"),
        ([5, 5, 3], "no box"),
        ([5, 5, "3", 3], "no box"),
        ([], "no box"),
        (None, "no box"),
        (7, "no box"),
        ("abcd", "no box"),
    ],
)
def test_faults_of_a_box(box, kind):
    assert box_fault(box, SIZE) == kind


@pytest.mark.parametrize(
    ("box", "segmentation", "expected"),
    [
        ([1, 2, 3, 4], None, ([1, 2, 3, 4], None)),
        ([-5, 20, 10, 30], None, ([0, 20, 5, 10], "border")),
        ([50, 50, 3, 3], [TRIANGLE], (None, "outside")),
        (None, None, (None, "no box")),
        (None, [TRIANGLE], ([5, 5, 10, 15], "box of outline")),
        ([5, 5, 0, 0], [TRIANGLE, [30, 1, 38, 1, 34, 4]], ([5, 1, 33, 19], "box of outline")),
        ([5, 5, 0, 0], [[5, 5, 5, 6, 5, 7]], (None, "empty box")),  # an outline without an inside
        (None, [[1, 1, 9, 9]], (None, "no box")),
        (None, [[-8, 1, 9, 9, 3, 20]], ([0, 1, 9, 19], "box of outline")),
    ],
)
def test_a_box_is_cut_or_taken_from_the_outline(box, segmentation, expected):
    assert repair_box(box, SIZE, segmentation) == expected


@pytest.mark.parametrize(
    ("polygon", "good"),
    [
        (TRIANGLE, True),
        ([1, 1, 9, 9], False),
        ([], False),
        ([1, 1, 9, 9, 3], False),
        ([1, 1, 9, 9, 3, 4, 5], False),
        ([1, 1, NAN, 9, 3, 4], False),
        ([1, 1, INF, 9, 3, 4], False),
        ([1, 1, 1e9, 9, 3, 4], False),  # rasterising would take 40 GB
        ([-20, -20, 60, -20, 60, 60], True),  # an object that the image cuts
        ([1, 1, None, 9, 3, 4], False),
        (["1", "1", "9", "9", "3", "4"], False),
        (3.0, False),
        ({}, False),
    ],
)
def test_polygons_with_an_inside(polygon, good):
    assert is_polygon(polygon, far=400) is good


def test_run_lengths_are_those_of_pycocotools():
    rng = np.random.default_rng(0)
    for density in (0.0, 0.02, 0.5, 0.98, 1.0):
        for height, width in ((30, 40), (1, 7), (200, 3)):
            mask = np.asfortranarray(rng.random((height, width)) < density, dtype=np.uint8)
            encoded = coco_mask.encode(mask)["counts"].decode()
            flat = mask.ravel(order="F")
            edges = np.flatnonzero(np.diff(flat)) + 1
            expected = np.diff([0, *edges, flat.size]).tolist()
            expected = [0, *expected] if flat[0] else expected  # runs start with zeros
            assert run_lengths(encoded) == expected
            assert is_rle({"size": [height, width], "counts": encoded}, (width, height))
            assert is_rle({"size": [height, width], "counts": expected}, (width, height))


@pytest.mark.parametrize(
    "rle",
    [
        {},
        {"size": [30, 40]},
        {"size": [40, 30], "counts": [1200]},
        {"size": [30, 40], "counts": []},
        {"size": [30, 40], "counts": [1199]},
        {"size": [30, 40], "counts": [600, 700]},
        {"size": [30, 40], "counts": [1300, -100]},
        {"size": [30, 40], "counts": [600.5, 599.5]},
        {"size": [30, 40], "counts": [[600], [600]]},
        {"size": [30, 40], "counts": [600, [600]]},
        {"size": [30, 40], "counts": "zzzz not run lengths"},
        {"size": [30, 40], "counts": ""},
        {"size": [30, 40], "counts": "Pä"},
        {"size": [30, 40], "counts": "P"},  # continuation bit set, but nothing follows
    ],
)
def test_run_lengths_that_do_not_fill_the_image(rle):
    assert not is_rle(rle, SIZE)
    assert repair_mask(rle, SIZE) == (None, ["rle"])


def good(**changes) -> dict:
    return {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": [5, 5, 10, 15],
        "area": 75,
        "iscrowd": 0,
        "segmentation": [TRIANGLE],
    } | changes


RLE = {"size": [30, 40], "counts": [600, 100, 500]}
CORNERS = [[5, 5, 15, 5, 15, 20, 5, 20]]


@pytest.mark.parametrize(
    ("changes", "kinds", "after"),
    [
        ({}, (), {}),
        ({"segmentation": RLE}, (), {}),
        ({"segmentation": RLE, "iscrowd": 1}, (), {}),
        ({"area": None}, ("area",), {"area": 150}),
        ({"area": 0}, ("area",), {"area": 150}),
        ({"area": NAN}, ("area",), {"area": 150}),
        ({"bbox": [35, 5, 10, 15]}, ("border",), {"bbox": [35, 5, 5, 15]}),
        ({"segmentation": [TRIANGLE, [1, 1, 2, 2]]}, ("polygon",), {"segmentation": [TRIANGLE]}),
        (
            {"segmentation": [[1, 1, 2, 2], [3]]},
            ("polygon", "polygon", "mask"),
            {"segmentation": CORNERS, "iscrowd": 1},
        ),
        ({"segmentation": []}, ("mask",), {"segmentation": CORNERS, "iscrowd": 1}),
        ({"segmentation": None}, ("mask",), {"segmentation": CORNERS, "iscrowd": 1}),
        ({"segmentation": "x"}, ("mask",), {"segmentation": CORNERS, "iscrowd": 1}),
        (
            {"segmentation": {"size": [30, 40], "counts": "zz"}},
            ("rle", "mask"),
            {"segmentation": CORNERS, "iscrowd": 1},
        ),
    ],
)
def test_one_annotation(changes, kinds, after):
    annotation = good(**changes)
    before = copy.deepcopy(annotation)
    repaired, found = repair_annotation(annotation, SIZE, masks=True)
    assert found == kinds
    expected = before | after
    assert json.dumps(repaired, sort_keys=True) == json.dumps(expected, sort_keys=True)
    assert json.dumps(annotation) == json.dumps(before), "the caller's annotation is unchanged"


def test_masks_that_are_not_trained_are_no_fault():
    annotation = good(segmentation=[[1, 1, 2, 2]])
    assert repair_annotation(annotation, SIZE, masks=False) == (annotation, ())


def table(*annotations: dict, images=None) -> dict:
    images = images or [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}]
    return {"images": images, "annotations": list(annotations), "categories": [{"id": 1, "name": "nut"}]}


def found_in(content: dict, **options) -> tuple[dict, dict[str, int]]:
    repaired, faults = repair(content, **options)
    return repaired, {fault.kind: fault.count for fault in faults}


def test_a_good_file_stays_as_it_is():
    content = table(good(), good(id=2, iscrowd=1, segmentation=RLE), good(id="x"))
    assert repair(content, masks=True) == (content, [])


def test_unknown_references_are_left_out():
    content = table(good(), good(id=2, image_id=9), good(id=3, category_id=8), good(id=4, image_id=[1]))
    del content["annotations"][2]["category_id"]
    repaired, found = found_in(content)
    assert found == {"orphan": 2, "category": 1}
    assert [a["id"] for a in repaired["annotations"]] == [1]


def test_shared_annotation_ids():
    other = good(bbox=[1, 1, 5, 5])
    content = table(good(), good(), other, good(id=7), good(id=None), "not an annotation")
    repaired, found = found_in(content)
    assert found == {"listed twice": 1, "id": 2, "orphan": 1}
    assert [a["id"] for a in repaired["annotations"]] == [1, 8, 7, 9]
    assert repaired["annotations"][1]["bbox"] == [1, 1, 5, 5]


def test_shared_image_ids():
    entry = {"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}
    images = [
        entry,
        dict(entry),
        entry | {"id": 2, "file_name": "b.jpg"},
        entry | {"id": 2, "file_name": "c.jpg"},
        {"id": 3, "width": 40, "height": 30},
        {"file_name": "d.jpg"},
        17,
    ]
    content = table(good(), good(id=2, image_id=2), good(id=3, image_id=[2]), images=images)
    repaired, found = found_in(content)
    assert found == {"image": 3, "image twice": 1, "image id": 1, "orphan": 1}
    assert repaired["images"] == [entry]
    assert [a["id"] for a in repaired["annotations"]] == [1], "the other belonged to an image left out"


def test_missing_sizes_come_from_the_file():
    images = [
        {"id": 1, "file_name": "a.jpg"},
        {"id": 2, "file_name": "b.jpg", "width": 0, "height": 30},
        {"id": 3, "file_name": "gone.jpg", "width": None, "height": 30},
    ]
    sizes = {"a.jpg": (40, 30), "b.jpg": (8, 9)}
    repaired, found = found_in(table(good(), good(id=2, image_id=2), images=images), wh_of=sizes.get)
    assert found == {"image size": 2, "image unsized": 1, "border": 1}
    assert [(i["width"], i["height"]) for i in repaired["images"]] == [(40, 30), (8, 9)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([], "no list of images"),
        ({"images": []}, "no list of annotations"),
        (table(good(category_id=5)), "no usable annotations; annotations without a known category: 1, first"),
        ({**table(good()), "images": []}, "no usable images"),
        ({**table(good()), "categories": [{"id": 1}, {"id": 1}]}, "two categories share an id"),
    ],
)
def test_files_that_nothing_can_be_done_with(content, expected):
    with pytest.raises(AnnotationFileError, match=expected):
        repair(content)


def test_the_line_names_the_first_three():
    content = table(good(), *(good(id=i, category_id=8) for i in range(2, 7)))
    (fault,) = repair(content)[1]
    assert str(fault) == (
        "annotations without a known category: 5, first annotation 2 (image 1, a.jpg), "
        "annotation 3 (image 1, a.jpg), annotation 4 (image 1, a.jpg), ...; left out"
    )


def test_pycocotools_reads_what_is_left(tmp_path):
    """An independent check: pycocotools indexes the file and decodes every mask to the size of its image."""
    content = table(
        good(),
        good(segmentation=[[1, 1, 2, 2]]),
        good(id=2, segmentation=RLE, bbox=[30, 20, 99, 99]),
        good(id=3, segmentation={"size": [30, 40], "counts": [99999]}),
        good(id=4, segmentation={"size": [30, 40], "counts": coco_mask.encode(
            np.asfortranarray(np.eye(30, 40, dtype=np.uint8)))["counts"].decode()}),
        good(id=5, image_id=44),
        {"id": 6, "image_id": 1, "category_id": 1, "segmentation": [TRIANGLE]},
    )  # fmt: skip
    repaired, _ = repair(json.loads(json.dumps(content)), masks=True)
    path = tmp_path / "repaired.json"
    path.write_text(json.dumps(repaired))
    coco = COCO(str(path))
    ids = coco.getAnnIds()
    assert len(ids) == len(set(ids)) == 6
    for annotation in coco.loadAnns(ids):
        assert coco.annToMask(annotation).shape == (30, 40)
        x, y, width, height = annotation["bbox"]
        assert 0 <= x < x + width <= 40
        assert 0 <= y < y + height <= 30
    assert coco.annToMask(coco.anns[2]).sum() == 100
    assert coco.annToMask(coco.anns[4]).sum() == 30


def test_every_kind_has_its_texts():
    assert all(row.what and row.done for row in KINDS.values())


def test_a_large_file_takes_seconds():
    """0.5 s for 20,000 annotations is 22 s for 860,000 (COCO's train2017); a fifth of that is usual."""
    polygon = [float(v) for v in range(5, 28)] + [3.0]
    content = table(*(good(id=i, segmentation=[polygon]) for i in range(20_000)))
    start = time.process_time()
    _, faults = repair(content, masks=True)
    assert time.process_time() - start < 0.5
    assert faults == []
