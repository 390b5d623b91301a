"""A type has one name, whichever way the config writes it."""

import mmcv.transforms
import pytest
from mmengine.config import ConfigDict
from mmengine.config.lazy import LazyObject
from mmengine.model import PretrainedInit
from torch import nn

from convnext_dense.mm.models.backbones import ConvNeXt
from convnext_dense.mm.type_names import is_pretrained, type_name


class Resize:
    """A class of another package with a known name."""


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("Resize", "Resize"),
        ("mmdet.Resize", "Resize"),
        ("mmengine.ConvNeXt", "ConvNeXt"),
        ("mmcv.transforms.processing.Resize", "Resize"),  # Config.to_dict() of a lazy config
        ("mypackage.Resize", "mypackage.Resize"),
        (mmcv.transforms.Resize, "Resize"),
        (Resize, f"{__name__}.Resize"),
        (ConvNeXt, "ConvNeXt"),
        (LazyObject("mmcv.transforms", "Resize"), "Resize"),
        (LazyObject("mmcv").transforms.Resize, "Resize"),
        (LazyObject("mypackage", "Resize"), "mypackage.Resize"),
        (nn.SyncBatchNorm, "SyncBN"),
        ("mmengine", "mmengine"),
        (None, ""),
    ],
)
def test_name_of_a_type_alone_and_in_a_config(kind, name):
    assert type_name(kind) == type_name(dict(type=kind)) == name
    assert type_name(ConfigDict(type=kind) if not isinstance(kind, LazyObject) else kind) == name


def test_an_entry_without_a_type():
    assert type_name({}) == ""


@pytest.mark.parametrize(
    ("init", "expected"),
    [
        (dict(type="Pretrained", checkpoint="a.pth"), True),
        (dict(type=PretrainedInit, checkpoint="a.pth"), True),
        (dict(type="TruncNormal", layer="Conv2d"), False),
        (None, False),
        ([], False),
    ],
)
def test_weights_of_an_init_cfg(init, expected):
    assert is_pretrained(init) is expected
