"""Segmentation heads of one channel, for two classes: a probability above the threshold is the second one."""

from collections.abc import Iterator, Mapping

from mmengine.config import Config

from convnext_dense.errors import UserError
from convnext_dense.mm.type_names import type_name
from convnext_dense.support.nested import mappings

# losses of mmseg that take the probabilities of classes from a softmax unless an argument asks for a sigmoid
_SOFTMAX = {"CrossEntropyLoss": "use_sigmoid", "DiceLoss": "use_sigmoid"}


def set_channels(head: dict, classes: int) -> None:
    """Give a head ``classes`` classes, and as many channels unless it has one for two classes."""
    head["num_classes"] = classes
    if head.get("out_channels") not in (None, 1):
        head["out_channels"] = classes


def check_one_channel(cfg: Config) -> None:
    """Check the heads of one channel in ``cfg``: mmseg builds any, and some learn nothing.

    Raises:
        UserError: more than two classes, or a softmax over one channel, whose loss is 0.
    """
    for key in ("decode_head", "auxiliary_head"):
        for _, head in mappings(cfg.model.get(key), keys=()):
            if (head.get("out_channels") or head.get("num_classes")) != 1:
                continue
            if head.get("num_classes", 2) > 2:
                raise UserError(
                    f"model.{key} has out_channels=1, which tells two classes apart, and num_classes="
                    f"{head['num_classes']}: leave out_channels out, with CrossEntropyLoss(use_sigmoid=False)"
                )
            for loss in _losses(head):
                option = _SOFTMAX.get(type_name(loss))
                # mmseg's DiceLoss has a sigmoid by default, its CrossEntropyLoss has not
                default = type_name(loss) == "DiceLoss"
                if option and not loss.get(option, default):
                    raise UserError(
                        f"model.{key} has one channel and {type_name(loss)} with a softmax, which is 1 "
                        f"everywhere: nothing would be learnt; set {option}=True in loss_decode"
                    )


def _losses(head: Mapping) -> Iterator[Mapping]:
    """Losses of a head; mmseg's default is a softmax."""
    loss = head.get("loss_decode", dict(type="CrossEntropyLoss"))
    return (entry for _, entry in mappings(loss, keys=()))
