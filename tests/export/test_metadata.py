"""Metadata survive their JSON, and texts that the runtime cannot use end in one line."""

import dataclasses
import json

import pytest
from onnx_models import metadata

from convnext_dense.errors import UserError
from convnext_dense.export.metadata import Metadata

CONTRACT = """{"format": 1, "package": "0.1.0", "torch": "2.13.0", "opset": 20,
 "recipe": "mask_rcnn/convnext_t_3x", "kind": "detector", "classes": ["person", "bicycle"],
 "palette": [[220, 20, 60], [119, 11, 32]], "scale": [1333, 800], "keep_ratio": true, "size_divisor": 32,
 "fixed_hw": null, "precision": "fp32", "score_thr": 0.05, "iou_threshold": 0.5, "max_per_image": 100,
 "masks": true, "mask_threshold": 0.5, "added_later": 3}"""


def test_the_text_of_the_contract():
    meta = Metadata.from_json(CONTRACT)
    assert meta.classes == ("person", "bicycle") and meta.palette[1] == (119, 11, 32)
    assert meta.scale == (1333, 800) and meta.fixed_hw is None and meta.windows is None
    expected = json.loads(CONTRACT)
    written = json.loads(meta.to_json())
    assert {key: written[key] for key in expected if key != "added_later"} == {
        key: value for key, value in expected.items() if key != "added_later"
    }


@pytest.mark.parametrize(
    "entries",
    [
        {"kind": "detector", "fixed_hw": (64, 96), "masks": True},
        {"kind": "segmentor", "mode": "slide", "crop_hw": (32, 48), "stride_hw": (21, 32)},
        {"kind": "segmentor", "binary_threshold": 0.3, "align_corners": True},
    ],
)
def test_there_and_back(entries):
    meta = metadata(**entries)
    assert Metadata.from_json(meta.to_json()) == meta
    assert dataclasses.is_dataclass(meta) and hash(meta)


def changed(**entries) -> str:
    return json.dumps({**json.loads(CONTRACT), **entries})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no metadata of convnext_dense"),
        ("{", "damaged"),
        ("[1]", "damaged"),
        (changed(format=2), "format 2; this version of convnext_dense reads format 1"),
        ('{"format": 1, "kind": "detector"}', "lack classes, keep_ratio"),
        (changed(kind="tracker"), r"kind='tracker'; use one of \('detector', 'segmentor'\)"),
        (changed(kind="segmentor", mode="slide"), "needs crop_hw"),
        (
            changed(kind="segmentor", mode="slide", crop_hw=[8, 8], stride_hw=[8, 8], output="labels"),
            "needs output='logits'",
        ),
        (
            changed(kind="segmentor", mode="slide", crop_hw=[9, 8], stride_hw=[8, 8], fixed_hw=[8, 8]),
            "larger than fixed_hw",
        ),
    ],
)
def test_texts_that_cannot_be_used(text, message):
    with pytest.raises(UserError, match=message) as caught:
        Metadata.from_json(text)
    assert "\n" not in str(caught.value)
