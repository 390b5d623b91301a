"""Losses and logits of heads against mmseg's own methods."""

import pytest
import torch
from mmengine.structures import PixelData

from convnext_dense.mm.models.registry import MODELS
from convnext_dense.mm.models.segmentation_logits import BaseDecodeHead, leaner_methods

PLAIN = dict(type="mmseg.CrossEntropyLoss", loss_weight=0.4)
LOSSES = {
    "plain": PLAIN,
    "not the ignored": dict(PLAIN, avg_non_ignore=True),
    "sum": dict(PLAIN, reduction="sum"),
    "class weights": dict(PLAIN, class_weight=[1.0, 2.0, 0.5, 1.0]),
    "sigmoid": dict(PLAIN, use_sigmoid=True),
    "two": [PLAIN, dict(type="mmseg.DiceLoss")],
    "dice": dict(type="mmseg.DiceLoss"),
}


def head_of(loss) -> torch.nn.Module:
    head = dict(type="convnext_dense.FCNHead", in_channels=4, channels=4, num_convs=0, num_classes=4)
    return MODELS.build(head | dict(concat_input=False, loss_decode=loss))


def samples() -> list:
    from mmseg.structures import SegDataSample  # needs the operators that convnext_dense.mm offers

    torch.manual_seed(0)
    made = [SegDataSample() for _ in range(2)]
    for sample in made:
        labels = torch.randint(4, (1, 16, 20))
        labels[:, :3] = 255
        sample.gt_sem_seg = PixelData(data=labels)
    return made


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_and_gradients_are_those_of_mmseg(loss):
    head, labels = head_of(LOSSES[loss]), samples()
    if loss == "class weights":  # mmseg looks up the weight of the ignored label, too
        for sample in labels:
            sample.gt_sem_seg.data.clamp_(max=3)
    logits = torch.randn(2, 4, 4, 5, dtype=torch.float64, requires_grad=True)
    found, expected = (
        method(logits, labels)
        for method in (head.loss_by_feat, lambda *args: BaseDecodeHead.loss_by_feat(head, *args))
    )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value.double(), rtol=1e-10, atol=1e-10)
        assert found[name].shape == value.shape
    gradients = [
        torch.autograd.grad(sum(v for k, v in losses.items() if "loss" in k), logits)[0]
        for losses in (found, expected)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_class_weights_beside_ignored_pixels_are_those_of_pytorch():
    """mmseg 1.2's own loss stops here, as it looks up the weight of label 255; the fork's does not."""
    head, labels = head_of(LOSSES["class weights"]), samples()
    logits = torch.randn(2, 4, 4, 5, dtype=torch.float64)
    large = torch.nn.functional.interpolate(logits, (16, 20), mode="bilinear", align_corners=False)
    truth = torch.cat([sample.gt_sem_seg.data for sample in labels])
    weight = torch.tensor(LOSSES["class weights"]["class_weight"], dtype=torch.float64)
    expected = torch.nn.functional.cross_entropy(large, truth, weight, ignore_index=255)
    torch.testing.assert_close(head.loss_by_feat(logits, labels)["loss_ce"], 0.4 * expected)


def test_nothing_but_ignored_pixels_is_a_loss_of_zero():
    head, labels = head_of(PLAIN), samples()
    for sample in labels:
        sample.gt_sem_seg.data[:] = 255
    logits = torch.randn(2, 4, 4, 5)
    found, expected = head.loss_by_feat(logits, labels), BaseDecodeHead.loss_by_feat(head, logits, labels)
    assert found["loss_ce"] == expected["loss_ce"] == 0
    assert torch.equal(found["acc_seg"], expected["acc_seg"])


def test_predictions_are_those_of_mmseg_with_the_classes_side_by_side():
    head, logits = head_of(PLAIN), torch.randn(1, 4, 4, 5)
    metas = [dict(img_shape=(16, 20))]
    found = head.predict_by_feat(logits, metas)
    torch.testing.assert_close(found, BaseDecodeHead.predict_by_feat(head, logits, metas))
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_a_head_with_methods_of_its_own_keeps_them():
    class Own(BaseDecodeHead):
        def loss_by_feat(self, *args):
            raise NotImplementedError

    assert list(leaner_methods(Own)) == ["predict_by_feat"]
