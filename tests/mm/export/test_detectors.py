"""Detectors of fixed size against mmdet's own predictions, in PyTorch."""

import functools

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("onnxscript")
import exportable
from exportable import DETECTORS, as_loaded, pictures

# isort: split
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox2roi
from mmengine.structures import InstanceData

PIXELS, SCORES, MASKS = 1e-3, 1e-5, 1e-4


@functools.cache
def model_of(name: str) -> nn.Module:
    return exportable.build(exportable.config(name))


def predicted(model: nn.Module, images: list[Tensor]) -> list[InstanceData]:
    """What mmdet finds in a batch."""
    return [sample.pred_instances for sample in model.test_step(as_loaded(images, DetDataSample))]


def probabilities(model: nn.Module, images: list[Tensor], found: list[InstanceData]) -> Tensor:
    """(sum of detections, side, side): mmdet's masks before they are pasted."""
    data = model.data_preprocessor(as_loaded(images, DetDataSample))
    levels = model.extract_feat(data["inputs"])
    rois, labels = bbox2roi([x.bboxes for x in found]), torch.cat([x.labels for x in found])
    head, rows = model.roi_head, torch.arange(len(rois))
    stages = range(len(head.mask_head)) if isinstance(head.mask_head, nn.ModuleList) else [None]
    maps = [
        head._mask_forward(*(() if stage is None else (stage,)), levels, rois)["mask_preds"]
        for stage in stages
    ]
    of_classes = [
        each.sigmoid()[rows, labels] if each.shape[1] > 1 else each.sigmoid()[:, 0] for each in maps
    ]
    return torch.stack(of_classes).mean(0)


def check(model: nn.Module, images: list[Tensor], batch: Tensor, sizes: Tensor | None = None) -> int:
    """Compare with mmdet; returns the number of detections."""
    whole = exportable.network(model)
    found = dict(zip(whole.outputs, whole(batch, sizes), strict=True))
    expected = predicted(model, images)
    assert found["count"].tolist() == [len(x) for x in expected]
    for i, instances in enumerate(expected):
        n = len(instances)
        assert torch.equal(found["labels"][i, :n], instances.labels)
        assert torch.allclose(found["scores"][i, :n], instances.scores, rtol=0, atol=SCORES)
        assert torch.allclose(found["boxes"][i, :n], instances.bboxes, rtol=0, atol=PIXELS)
        assert (found["labels"][i, n:] == -1).all()
        for name in found.keys() & {"scores", "boxes", "masks"}:
            assert not found[name][i, n:].any(), "fillers are zeros"
    if "masks" in found and any(len(x) for x in expected):
        masks = torch.cat([found["masks"][i, : len(x)] for i, x in enumerate(expected)])
        assert torch.allclose(masks, probabilities(model, images, expected), rtol=0, atol=MASKS)
    return sum(len(x) for x in expected)


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("sizes", [[(96, 128)], [(101, 67), (101, 67)]], ids=["one", "two"])
def test_as_mmdet(name, sizes):
    images = pictures(*sizes)
    assert check(model_of(name), images, torch.stack(images)) > len(images)


@pytest.mark.parametrize("name", ["mask_rcnn", "cascade", "fcos"])
def test_images_filled_up_to_one_size_are_a_batch_of_mmdet(name):
    """mmdet pads the images of a batch to the largest, so the padded shape, and all else, is the same."""
    images = pictures((96, 70), (61, 128), (33, 40))
    batch = torch.stack(
        [nn.functional.pad(x, (0, 128 - x.shape[2], 0, 96 - x.shape[1]), value=200) for x in images]
    )
    sizes = torch.tensor([x.shape[1:] for x in images])
    assert check(model_of(name), images, batch, sizes) > len(images)


def test_a_filled_up_image_alone_has_its_detections_where_mmdet_pads_to_that_size():
    model = exportable.build(exportable.config("mask_rcnn", model__data_preprocessor__pad_size_divisor=128))
    (image,) = pictures((75, 100))
    batch = nn.functional.pad(image, (0, 28, 0, 53), value=9)[None]
    assert check(model, [image], batch, torch.tensor([[75, 100]])) > 1


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("mask_rcnn", {"model__test_cfg__rcnn__score_thr": 1.0}),
        ("mask_rcnn", {"model__test_cfg__rpn__min_bbox_size": 1000}),
        ("cascade", {"model__test_cfg__rcnn__score_thr": 1.0}),
        ("retinanet", {"model__test_cfg__score_thr": 1.0}),
        ("fcos", {"model__test_cfg__min_bbox_size": 1000}),
    ],
)
def test_no_detections(name, setting):
    images = pictures((64, 96), (64, 96))
    model = exportable.build(exportable.config(name, **setting))
    assert check(model, images, torch.stack(images)) == 0


def test_images_smaller_than_the_stride():
    images = pictures((20, 17))
    model = exportable.build(exportable.config("mask_rcnn", model__data_preprocessor__pad_size_divisor=1))
    check(model, images, torch.stack(images))


def test_boxes_are_found_in_half_precision_too():
    """Weights in float16 and boxes in float32: nearly the same boxes, where mmdet's own would overflow."""
    whole = exportable.network(model_of("mask_rcnn"))
    batch = torch.stack(pictures((96, 128)))
    expected = dict(zip(whole.outputs, whole(batch), strict=True))
    whole.model.half()
    found = dict(zip(whole.outputs, whole(batch), strict=True))
    assert all(found[name].dtype == expected[name].dtype for name in found)
    assert abs(int(found["count"]) - int(expected["count"])) <= 3
    near = (found["boxes"][0, :, None] - expected["boxes"][0]).abs().amax(-1).amin(1)
    assert near.median() < 1
