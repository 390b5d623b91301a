"""What converters write otherwise, against what pycocotools finds in the tidy file."""

import contextlib
import io

import pytest
from pycocotools.coco import COCO

from convnext_dense.data.coco_repair import KINDS, Findings, repair
from convnext_dense.data.coco_tidy import tidy, twin


def content(image=(), annotation=(), category=()):
    image = {"id": 1, "file_name": "a.jpg", "width": 8, "height": 6, **dict(image)}
    box = {"bbox": [1, 1, 3, 2], "area": 6, "iscrowd": 0, "segmentation": [[1, 1, 4, 1, 4, 3]]}
    return {
        "images": [{key: value for key, value in image.items() if value is not None}],
        "annotations": [{"id": 5, "image_id": 1, "category_id": 7, **box, **dict(annotation)}],
        "categories": [{"id": 7, "name": "nut", **dict(category)}],
    }


def tidied(what, files=("a.jpg", "sub/a.jpg")):
    findings = Findings()
    found = tidy(what, lambda name: (8, 6) if name in files else None, files.__contains__, findings.add)
    return found, findings.counts


CASES = {
    "no size": (content(image=dict(width=None, height=None)), {"image size": 1}),
    "zero size": (content(image=dict(width=0)), {"image size": 1}),
    "text": (content(image=dict(width="8", height="6.0")), {"size as text": 1}),
    "windows": (content(image=dict(file_name="sub\\a.jpg")), {"spelling": 1}),
    "text ids of images": (content(image=dict(id="1")), {"reference": 1}),
    "text ids of owners": (content(annotation=dict(image_id="1")), {"reference": 1}),
    "text ids of classes": (content(annotation=dict(category_id="7")), {"reference": 1}),
    "numbers of classes": (content(category=dict(id="7")), {"reference": 1}),
    "both": (
        content(image=dict(id=1.0, width="8"), annotation=dict(image_id="1.0")),
        {"size as text": 1, "reference": 1},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_read_and_said_once(name):
    what, counts = CASES[name]
    found, said = tidied(what)
    assert said == counts
    assert all(KINDS[kind].tidied for kind in counts)
    assert found is not what
    assert what == CASES[name][0], "not changed"
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = found
        coco.createIndex()
    (image,) = coco.loadImgs(coco.getImgIds())
    assert (image["width"], image["height"]) == (8, 6)
    (annotation,) = coco.loadAnns(coco.getAnnIds(imgIds=coco.getImgIds(), catIds=coco.getCatIds()))
    assert coco.annToMask(annotation).shape == (6, 8)
    _, faults = repair(what, True, lambda name: (8, 6), exists=lambda name: "\\" not in name)
    assert {fault.kind: fault.count for fault in faults} == counts, "training says the same"


def test_floats_that_are_whole_numbers_need_nothing():
    what = content(
        image=dict(id=1.0, width=8.0, height=6.0),
        annotation=dict(id=5.0, image_id=1.0, category_id=7.0),
        category=dict(id=7.0),
    )
    found, said = tidied(what)
    assert found is what
    assert said == {}
    repaired, faults = repair(what)
    assert faults == []
    assert repaired["annotations"] == what["annotations"]


def test_what_is_no_other_spelling_stays_a_fault():
    for what in (
        content(image=dict(width="wide", height="6")),
        content(image=dict(file_name="b\\c.jpg", width=None)),
        content(annotation=dict(category_id="8")),
        content(annotation=dict(category_id=float("nan"))),
        content(annotation=dict(category_id=[7])),
    ):
        found, said = tidied(what, files=())
        assert found is what
        assert said == {}
    numbers = [
        ("7", 7),
        ("7.0", 7),
        (7, "7"),
        (7.0, "7"),
        ("007", 7),
        ("x", None),
        ("7.5", None),
        ("nan", None),
    ]
    assert [twin(value) for value, _ in numbers] == [other for _, other in numbers]


def test_an_id_with_zeros_is_kept_where_it_is_known():
    what = content(image=dict(id="007"), annotation=dict(image_id="007"))
    assert tidied(what)[0] is what
