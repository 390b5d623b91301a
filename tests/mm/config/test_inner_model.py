"""Where the backbone is: in the model itself, or in one inside it."""

import pytest

from convnext_dense.mm.config.inner_model import backbone_owner, inner_model

NET = dict(type="Net", backbone=dict(type="ResNet"))


@pytest.mark.parametrize(
    ("model", "owner"),
    [
        (NET, ()),
        (dict(type="SoftTeacher", detector=NET), ("detector",)),
        (dict(type="DeepSORT", reid=NET, detector=NET), ("detector",)),  # whatever their order
        (dict(type="Around", outer=dict(type="Around", architecture=NET)), ("outer", "architecture")),
        (dict(type="Student", teacher_config=dict(model=NET)), None),
        (dict(type="SAN", image_encoder=dict(type="ViT")), None),
        (dict(type="A", backbone=None), None),
        (None, None),
    ],
)
def test_the_owner_of_the_backbone(model, owner):
    assert backbone_owner(model) == owner
    if model is not None:
        assert inner_model(model) == (None if owner is None else NET)
