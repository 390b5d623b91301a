"""What a trial of a swapped model leaves out, because it takes minutes and shows nothing more."""

import pytest

pytest.importorskip("mmdet")

from convnext_dense.mm.swap.smoke_test import _small_load
from convnext_dense.support.nested import mappings


@pytest.mark.parametrize(("classes", "tried"), [(80, 80), (1203, 1203), (13204, 80)])
def test_thousands_of_classes_become_few_in_every_head(classes, tried):
    heads = [dict(num_classes=classes, loss_cls=dict(num_classes=classes)) for _ in range(3)]
    model = dict(roi_head=dict(bbox_head=heads), test_cfg=dict(rcnn=dict(max_per_img=300)))
    _small_load(model)
    assert {node["num_classes"] for _, node in mappings(model) if "num_classes" in node} == {tried}
    assert model["test_cfg"]["rcnn"]["max_per_img"] == 100
