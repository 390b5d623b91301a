"""An exported file of another task or with other classes is refused before it runs."""

import pytest

from convnext_dense.errors import UserError
from convnext_dense.export.metadata import Metadata
from convnext_dense.mm.models.onnx_model import check_fits

DETECTOR, SEGMENTOR = dict(roi_head=dict()), dict(decode_head=dict())


def metadata(kind="detector", classes=("cat", "dog")):
    entries = dict(package="0", torch="2", opset=18, recipe="r", scale=None, keep_ratio=True, size_divisor=1)
    return Metadata(kind=kind, classes=classes, palette=(), **entries)


@pytest.mark.parametrize("classes", [("cat", "dog"), ("Katze", "Hund"), ()])
def test_the_same_number_of_classes_fits(classes):
    check_fits(metadata(), "m.onnx", DETECTOR, classes)
    check_fits(metadata("segmentor"), "m.onnx", SEGMENTOR, classes)


@pytest.mark.parametrize("classes", [("cat",), ("cat", "dog", "bird"), ("dog", "cat")])
def test_labels_that_would_mean_something_else_are_refused(classes):
    with pytest.raises(UserError, match=r"m\.onnx has 2 classes \(cat, dog\), .*--classes"):
        check_fits(metadata(), "m.onnx", DETECTOR, classes)


@pytest.mark.parametrize(("kind", "model"), [("detector", SEGMENTOR), ("segmentor", DETECTOR)])
def test_another_task_is_refused(kind, model):
    with pytest.raises(UserError, match=f"m.onnx is a {kind}, exported from r; the config's model is a "):
        check_fits(metadata(kind), "m.onnx", model, ())
