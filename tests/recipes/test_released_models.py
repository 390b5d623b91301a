"""Whole detectors and segmentors of other code bases map completely onto our configs.

tests/assets/released_models.json has the keys and shapes that mmdet 2.28, mmseg 0.30 (the released
code) and mmdet 3.3, mmseg 1.2 with mmpretrain's backbone gave.
"""

import json

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from repository import ASSETS

from convnext_dense import CheckpointError, get_config
from convnext_dense.mm.engine.checkpoints import load_model, whole_model_state
from convnext_dense.mm.models.meta_device import build_on_meta

MODELS_BY_NAME = {
    entry["name"]: entry for entry in json.loads((ASSETS / "released_models.json").read_text())["models"]
}
CONFIG_OF = {
    "mask_rcnn_convnext_tiny": "mask_rcnn/convnext_t_3x",
    "cascade_mask_rcnn_convnext_tiny": "cascade/convnext_t_3x",
    "cascade_mask_rcnn_convnext_base": "cascade/convnext_b_3x",
    "upernet_convnext_tiny": "upernet/convnext_t_512_160k",
    "upernet_convnext_base": "upernet/convnext_b_512_160k",
    "mmdet3_mask_rcnn_convnext_tiny": "mask_rcnn/convnext_t_3x",
    "mmdet3_cascade_mask_rcnn_convnext_tiny": "cascade/convnext_t_3x",
    "mmseg1_upernet_convnext_tiny": "upernet/convnext_t_512_160k",
}


@pytest.mark.parametrize("name", MODELS_BY_NAME)
def test_keys_and_shapes_map_completely(name):
    model = build_on_meta(get_config(CONFIG_OF[name]))
    keys = MODELS_BY_NAME[name]["keys"]
    state = {key: torch.empty(shape, device="meta") for key, shape in keys.items()}
    mapped = whole_model_state(model, state, name)
    own = model.state_dict()
    assert {key: value.shape for key, value in mapped.items()} == {key: v.shape for key, v in own.items()}
    assert len(mapped) == len(keys), "every tensor of the file is used"


def small_segmentor() -> torch.nn.Module:
    cfg = get_config("demo/upernet_shapes")
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model)


@pytest.fixture
def other_names(tmp_path):
    """A segmentor's checkpoint as mmseg with mmpretrain's backbone would have written it, and its values."""
    model = small_segmentor()
    state = {key: torch.rand_like(value.float()).to(value.dtype) for key, value in model.state_dict().items()}
    table = {
        ".dwconv.": ".depthwise_conv.",
        ".pwconv1.": ".pointwise_conv1.",
        ".pwconv2.": ".pointwise_conv2.",
    }
    renamed = {}
    for key, value in state.items():
        for ours, theirs in table.items():
            key = key.replace(ours, theirs) if key.startswith("backbone.") else key
        renamed[key] = value
    path = tmp_path / "segmentor.pth"
    torch.save({"state_dict": renamed, "meta": {"dataset_meta": {"classes": ("a",)}}}, path)
    return path, state


def test_a_model_with_mmpretrains_backbone_loads_whole(other_names):
    path, state = other_names
    model = small_segmentor()
    assert load_model(model, path) == {"dataset_meta": {"classes": ("a",)}}
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_a_backbone_alone_is_no_whole_model(tmp_path):
    model = small_segmentor()
    torch.save(model.backbone.state_dict(), tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"only a backbone \(dense naming\).*--pretrained PATH"):
        load_model(model, tmp_path / "b.pth")


def test_a_whole_model_in_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    model, other = small_segmentor(), small_segmentor()
    safetensors.save_file(model.state_dict(), tmp_path / "m.safetensors")
    assert load_model(other, tmp_path / "m.safetensors") == {}
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    )
