"""Configs of packages by name, ours and others', also as bases."""

import importlib
import sys
from pathlib import Path

import pytest
from environments import ONEDL, environment
from mmengine.config import Config

from convnext_dense.errors import UserError
from convnext_dense.mm.config import by_name
from convnext_dense.mm.config.by_name import find_configs_in_mmengine, recipe_file
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.errors import explain
from convnext_dense.mm.models.meta_device import build_on_meta
from convnext_dense.recipes import config_path, configs_root


def test_names_of_recipes_and_bases():
    assert recipe_file("convnext_dense::cascade/convnext_b_3x.py") == config_path("cascade/convnext_b_3x")
    assert recipe_file("cascade/convnext_b_3x") == config_path("cascade/convnext_b_3x")
    assert recipe_file("convnext_dense::_base_/mask_rcnn.py") == configs_root() / "_base_/mask_rcnn.py"
    with pytest.raises(UserError, match="near: cascade/convnext_b_3x"):
        recipe_file("convnext_dense::cascade/convnext_b_4x.py")


@pytest.mark.parametrize("bases", ["'{}'", "['{}']", "['{}', 'other.py']"])
def test_a_child_inherits_a_recipe(bases, tmp_path):
    (tmp_path / "other.py").write_text("other = 1\n")
    child = tmp_path / "child.py"
    name = "convnext_dense::mask_rcnn/convnext_t_3x.py"
    child.write_text(f"_base_ = {bases.format(name)}\nmodel = dict(backbone=dict(drop_path_rate=0.1))\n")
    cfg, recipe = load_config(str(child)), load_config("mask_rcnn/convnext_t_3x")
    recipe.model.backbone.drop_path_rate = 0.1
    assert cfg.model == recipe.model and cfg.optim_wrapper == recipe.optim_wrapper
    assert Config.fromfile(child).model == cfg.model  # mmengine alone, after `import convnext_dense.mm`
    assert load_config(name).train_dataloader == recipe.train_dataloader


def test_a_child_adds_its_backbone_to_two_bases(tmp_path):
    child = tmp_path / "child.py"
    child.write_text(
        "_base_ = ['convnext_dense::_base_/mask_rcnn.py', 'convnext_dense::_base_/coco_3x.py']\n"
        "dims = [40, 80, 160, 320]\n"
        "model = dict(backbone=dict(type='ConvNeXt', arch='atto'), neck=dict(in_channels=dims))\n"
    )
    cfg, recipe = load_config(str(child)), load_config("mask_rcnn/convnext_t_3x")
    assert cfg.train_dataloader == recipe.train_dataloader
    neck = build_on_meta(cfg).neck
    assert [conv.in_channels for conv in neck.lateral_convs] == [40, 80, 160, 320]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that carries a config as wheels of OpenMMLab do, and one beside it as their checkouts do."""
    for folder, name in [
        ("wheel/.mim/configs/some", "a.py"),
        ("configs/some", "b.py"),
        ("wheel/lazy", "c.py"),
    ]:
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / name).write_text("model = dict(type='Net', head=dict(type='Head'))\n")
    (tmp_path / "wheel" / "__init__.py").write_text(
        "raise ImportError('this package must not be imported')\n"
    )
    (tmp_path / "other" / "bare").mkdir(parents=True)
    (tmp_path / "other" / "bare" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "other")
    return tmp_path


@pytest.mark.parametrize("name", ["wheel::some/a.py", "wheel::some/b.py"])
def test_configs_of_a_package_that_mmengine_does_not_know(package, name):
    (package / "child.py").write_text(f"_base_ = '{name}'\n")
    child = Config.fromfile(package / "child.py")
    assert child.model == dict(type="Net", head=dict(type="Head"), _scope_="wheel")
    assert load_config(name).model == dict(type="Net", head=dict(type="Head"))


def test_a_pure_python_base_in_a_package(package):
    text = "from mmengine.config import read_base\nwith read_base():\n    from wheel.lazy.c import *\n"
    (package / "child.py").write_text(text)
    assert Config.fromfile(package / "child.py").model.head.type == "Head"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wheel::some/aa.py", "no such file in .*configs; near: some/a.py"),
        ("wheel::nothing_like_it.py", "use PACKAGE::PATH"),
        ("no_such_package::some/a.py", "no_such_package is not installed"),
        ("bare::some/a.py", "carries none"),
        ("::some/a.py", "the package is not installed"),
    ],
)
def test_a_config_that_is_not_there_is_one_line(package, name, words):
    with pytest.raises(UserError, match=f"no config {name}: .*{words}") as error:
        load_config(name)
    assert "\n" not in str(error.value)


def test_a_pure_python_base_in_a_package_that_is_not_there(tmp_path):
    text = "from mmengine.config import read_base\nwith read_base():\n    from mmnone.lazy.c import *\n"
    (tmp_path / "child.py").write_text(text)
    with pytest.raises(Exception, match="mmnone is not installed") as error:
        Config.fromfile(tmp_path / "child.py")
    assert "child.py" in explain(error.value) and "mmnone is not installed" in explain(error.value)


def test_an_absent_toolbox_is_named_with_the_command(package, monkeypatch):
    monkeypatch.setattr(by_name, "package_folder", lambda name: None)
    monkeypatch.setattr(by_name, "read_toolboxes", lambda: environment(*ONEDL))
    with pytest.raises(UserError, match="mmpretrain is not installed; pip install 'onedl-mmpretrain"):
        load_config("mmpretrain::convnext/convnext-base_32xb128_in1k.py")


@pytest.mark.parametrize(
    "name", ["mmdet::_base_/models/mask-rcnn_r50_fpn.py", "mmseg::_base_/models/fcn_hr18.py"]
)
def test_the_toolboxes_are_found_once_and_without_pkg_resources(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "pkg_resources", None)
    find_configs_in_mmengine()
    path, scope = Config._get_cfg_path(name, "child.py")
    package, _, within = name.partition("::")
    expected = Path(importlib.import_module(package).__file__).parent / ".mim" / "configs" / within
    assert (Path(path).resolve(), scope) == (expected.resolve(), package)
    assert Config._get_cfg_path("base.py", "folder/child.py") == ("folder/base.py", None)
