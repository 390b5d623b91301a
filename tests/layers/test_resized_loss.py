"""Cross entropy of resized logits against PyTorch's own operations."""

import pytest
import torch
from torch.nn import functional as F

from convnext_dense.bench.timing import kept_bytes
from convnext_dense.layers.resized_loss import classes_together, resized_cross_entropy, resized_rows

IGNORED = 255


def example(hw, dtype=torch.float64):
    torch.manual_seed(0)
    logits = torch.randn(2, 7, 5, 6, dtype=dtype, requires_grad=True)
    labels = torch.randint(7, (2, *hw))
    labels[:, :2, 1:] = IGNORED
    return logits, labels


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("hw", [(20, 24), (5, 6), (13, 9), (1, 1)])
def test_values_labels_and_gradients_are_those_of_pytorch(hw, align_corners):
    logits, labels = example(hw)
    weight = torch.randn(labels.shape, dtype=torch.float64)
    large = F.interpolate(logits, hw, mode="bilinear", align_corners=align_corners)
    expected = F.cross_entropy(large, labels, ignore_index=IGNORED, reduction="none")
    (gradient,) = torch.autograd.grad((expected * weight).sum(), logits)
    loss, found = resized_cross_entropy(logits, labels, IGNORED, align_corners)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(found, large.argmax(1)) and not found.requires_grad
    (own,) = torch.autograd.grad((loss * weight).sum(), logits)
    torch.testing.assert_close(own, gradient, rtol=1e-10, atol=1e-12)


def test_ignored_pixels_take_no_part_even_with_infinite_gradients():
    logits, labels = example((10, 12))
    labels[:] = IGNORED
    loss, _ = resized_cross_entropy(logits, labels, IGNORED, False)
    assert not loss.any()
    (gradient,) = torch.autograd.grad(loss, logits, torch.full_like(loss, float("inf")))
    assert not gradient.any()


def test_the_classes_of_a_pixel_lie_side_by_side():
    """Softmax and argmax over anything else take twice the time."""
    logits, labels = example((10, 12))
    for image, label in zip(classes_together(logits).split(1), labels.split(1), strict=True):
        assert resized_rows(image, label, False).is_contiguous()


def test_the_small_logits_alone_are_kept():
    logits, labels = example((40, 48), torch.float32)

    def forward():
        return resized_cross_entropy(logits, labels, IGNORED, False)[0].sum()

    assert kept_bytes(forward, [labels]) <= 2 * logits.numel() * 4


@pytest.mark.parametrize("label", [7, -1, 254])
def test_a_label_that_is_no_class_is_named(label):
    logits, labels = example((10, 12))
    labels[0, 3, 3] = label
    with pytest.raises(IndexError, match=rf"label {label} is no class: there are 7, from 0"):
        resized_cross_entropy(logits, labels, IGNORED, False)


def test_a_second_derivative_is_refused():
    logits, labels = example((10, 12))
    loss, _ = resized_cross_entropy(logits, labels, IGNORED, False)
    (gradient,) = torch.autograd.grad(loss.sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()
