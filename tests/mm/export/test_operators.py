"""The two operators of our own: in PyTorch against the ops, and in ONNX against PyTorch."""

import warnings

import pytest
import torch

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
import onnxruntime
from op_cases import loop_nms, loop_roi_align, random_boxes

from convnext_dense.mm.export.operators import OPSET, kept_by_nms, pooled, translations


def in_onnx(module: torch.nn.Module, *arguments: torch.Tensor, dynamic: tuple):
    """What ONNX Runtime computes of the exported module, as a function of its inputs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.export.export(module, arguments, dynamic_shapes=dynamic, strict=False)
        program = torch.onnx.export(
            traced,
            dynamo=True,
            opset_version=OPSET,
            custom_translation_table=translations(),
            verbose=False,
        )
    proto = program.model_proto
    assert {node.domain for node in proto.graph.node} == {""} and not proto.functions
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return lambda *inputs: session.run(
        None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    )[0]


class Kept(torch.nn.Module):
    def forward(self, boxes, scores):
        return kept_by_nms(boxes, scores, 0.5, -0.5)


class Pooled(torch.nn.Module):
    def __init__(self, ratio: int) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(self, features, boxes, images):
        return pooled(features, boxes, images, 7, 0.25, self.ratio)


def lists(rows: int, count: int):
    """Boxes (rows, count, 4) and scores; a third of them are fillers, in the last row all."""
    boxes, scores = (
        torch.stack(parts) for parts in zip(*(random_boxes(count, seed=i) for i in range(rows)), strict=True)
    )
    scores[:, ::3] = -1.0
    scores[-1] = -1.0
    return boxes, scores


def test_nms_against_the_loop():
    boxes, scores = lists(3, 90)
    kept = kept_by_nms(boxes, scores, 0.5, -0.5)
    for row in range(3):
        order = [i for i in scores[row].argsort(descending=True).tolist() if scores[row, i] > -0.5]
        expected = loop_nms(boxes[row], order, 0.5, 0)
        assert sorted(expected) == kept[row].nonzero().flatten().tolist()
    assert kept[0].any() and not kept[2].any()


@pytest.mark.parametrize("ratio", [0, 2])
def test_pooling_against_the_loop(ratio):
    g = torch.Generator().manual_seed(0)
    features = torch.randn(2, 2, 12, 15, generator=g)
    boxes = random_boxes(5, size=40.0)[0]
    boxes[3] = 0
    images = torch.tensor([0, 1, 1, 0, 1])
    rois = torch.cat([images[:, None].float(), boxes], 1)
    expected = loop_roi_align(features, rois, (7, 7), 0.25, ratio, True)
    assert torch.allclose(pooled(features, boxes, images, 7, 0.25, ratio).double(), expected, atol=1e-5)


def test_nms_in_onnx():
    dynamic = ({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC},) * 2
    run = in_onnx(Kept(), *lists(2, 8), dynamic=dynamic)
    for rows, count in ((1, 5), (3, 90), (2, 400)):
        boxes, scores = lists(rows, count)
        assert (run(boxes, scores) == kept_by_nms(boxes, scores, 0.5, -0.5).numpy()).all()


@pytest.mark.parametrize("ratio", [0, 2])
def test_pooling_in_onnx(ratio):
    dim = torch.export.Dim.DYNAMIC
    g = torch.Generator().manual_seed(1)
    example = torch.zeros(2, 3, 8, 9), torch.zeros(4, 4), torch.zeros(4, dtype=torch.int64)
    run = in_onnx(Pooled(ratio), *example, dynamic=({0: dim, 2: dim, 3: dim}, {0: dim}, {0: dim}))
    features = torch.randn(3, 3, 20, 31, generator=g)
    boxes = random_boxes(60, size=90.0)[0]
    boxes[::7] = 0
    images = torch.arange(60) % 3
    found = torch.from_numpy(run(features, boxes, images))
    assert torch.allclose(found, pooled(features, boxes, images, 7, 0.25, ratio), atol=1e-5)
