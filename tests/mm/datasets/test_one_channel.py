"""Heads of one channel: what mmseg builds, and what would learn nothing."""

import pytest
from mmengine.config import Config

from convnext_dense.errors import UserError
from convnext_dense.mm.datasets.one_channel import check_one_channel, set_channels

SIGMOID, SOFTMAX = (dict(type="CrossEntropyLoss", use_sigmoid=on) for on in (True, False))


def config(**head):
    return Config(dict(model=dict(decode_head=dict(num_classes=2, **head))))


def test_heads_that_learn():
    check_one_channel(config(out_channels=1, loss_decode=SIGMOID))
    check_one_channel(config(out_channels=1, loss_decode=[SIGMOID, dict(type="DiceLoss")]))
    check_one_channel(config())
    check_one_channel(config(out_channels=2, loss_decode=SOFTMAX))


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (dict(out_channels=1, loss_decode=SOFTMAX), "use_sigmoid=True"),
        (dict(out_channels=1), "CrossEntropyLoss with a softmax"),
        (dict(out_channels=1, loss_decode=[SIGMOID, SOFTMAX]), "use_sigmoid=True"),
        (dict(out_channels=1, num_classes=3, loss_decode=SIGMOID), "two classes apart, and num_classes=3"),
    ],
)
def test_heads_that_do_not(head, said):
    cfg = Config(
        dict(model=dict(decode_head=dict(num_classes=2), auxiliary_head=[{"num_classes": 2, **head}]))
    )
    with pytest.raises(UserError, match=said):
        check_one_channel(cfg)


def test_channels_follow_the_classes():
    heads = [dict(num_classes=19, **more) for more in ({}, dict(out_channels=19), dict(out_channels=1))]
    for head in heads:
        set_channels(head, 2)
    assert [head.get("out_channels") for head in heads] == [None, 2, 1]
