"""Configs with the same model are one structure, whatever changes no verdict."""

import pytest
from mmengine.config import Config

from convnext_dense.errors import UserError
from convnext_dense.mm.swap import structures
from convnext_dense.mm.swap.structures import backbone_type, digest_of, one_line, read_structures

MODEL = dict(
    type="A",
    data_preprocessor=dict(type="P", size=(512, 512), batch_augments=[dict(type="Pad")]),
    backbone=dict(type="B", depth=50, init_cfg=dict(checkpoint="x")),
    decode_head=dict(type="H", num_classes=150),
    auxiliary_head=[dict(type="I", num_classes=150)],
    test_cfg=dict(mode="slide"),
    pretrained="y",
)


def digest(*edits: tuple[str, object], **entries: object) -> str:
    """Of a config with ``MODEL``, changed at dotted keys below ``model``."""
    cfg = Config(dict(model=MODEL, default_scope="mmseg", **entries))
    cfg.merge_from_dict({f"model.{key}": value for key, value in edits})
    return digest_of(cfg)


CLASSES = ("decode_head.num_classes", 19), ("auxiliary_head.0.num_classes", 19)


@pytest.mark.parametrize(
    ("edits", "same"),
    [
        ([("backbone.init_cfg", dict(checkpoint="z")), ("pretrained", None)], True),
        (CLASSES, True),
        (CLASSES[:1], False),  # heads that disagree
        ([(key, 2) for key, _ in CLASSES], False),  # two classes may mean a sigmoid
        ([("data_preprocessor.size", (768, 768)), ("data_preprocessor.batch_augments", None)], True),
        ([("data_preprocessor.size", None)], False),
        ([("backbone.depth", 101)], False),
        ([("test_cfg.mode", "whole")], False),
    ],
)
def test_what_decides_a_structure(edits, same):
    assert (digest(*edits) == digest()) == same


def test_scope_imports_and_optimizer_count_and_schedules_do_not():
    wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.1))
    assert (
        digest()
        != digest(optim_wrapper=wrapper)
        != digest(optim_wrapper=dict(wrapper, type="AmpOptimWrapper"))
    )
    assert digest(optim_wrapper=wrapper) == digest(optim_wrapper=dict(wrapper, optimizer=None), max_epochs=3)
    assert digest() != digest(custom_imports=dict(imports=["mmseg"]))
    assert digest_of(Config(dict(model=MODEL, default_scope="mmdet"))) != digest()


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (MODEL, "B"),
        (dict(detector=dict(backbone=dict(type="C"))), "C"),  # a model around a model
        (dict(image_encoder=dict(type="V")), "-"),
    ],
)
def test_the_backbone_is_found_in_an_inner_model(model, kind):
    assert backbone_type(model) == kind


def test_every_config_is_in_a_structure_or_left_out_with_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(structures, "PACKAGES", ("mmdet",))
    monkeypatch.setattr(structures, "config_root", lambda package: tmp_path)
    files = {
        "a/one.py": "model = dict(type='A', backbone=dict(type='B'))",
        "a/same.py": "model = dict(type='A', backbone=dict(type='B', pretrained='x'))\nmax_epochs = 3",
        "b/other.py": "model = dict(type='A', backbone=dict(type='C'))",
        "b/none.py": "max_epochs = 3",
        "b/broken.py": "raise RuntimeError('no package')",
        "_base_/base.py": "model = dict(type='base')",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(
        structures, "load_config", lambda name: Config.fromfile(tmp_path / name[len("mmdet::") :])
    )
    found, left_out = read_structures()
    assert [(s.name, s.backbone, s.members) for s in found] == [
        ("mmdet::a/one.py", "B", ("mmdet::a/one.py", "mmdet::a/same.py")),
        ("mmdet::b/other.py", "C", ("mmdet::b/other.py",)),
    ]
    assert left_out == [("mmdet::b/broken.py", "no package"), ("mmdet::b/none.py", "has no model")]


def test_a_package_that_is_not_there_is_named():
    with pytest.raises(UserError, match="mmnothing is not installed"):
        structures.config_names("mmnothing")
    assert len(structures.config_names("mmseg")) > 600


def test_a_reason_is_one_line_without_folders():
    said = one_line(OSError('no /home/me/x.py:3,\n "/tmp/a/b.cpp" https://a.b/c/d.pth configs/gfl/x.py'))
    assert said == 'no x.py:3, "b.cpp" https://a.b/c/d.pth configs/gfl/x.py'
    assert one_line(AssertionError()) == "AssertionError"
    assert one_line(ImportError("no x, the current sys.path is: /home/me")) == "no x"
