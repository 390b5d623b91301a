"""An error that a config causes is one line with file, key and remedy; a fault of the code is none."""

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope, Registry
from torch import nn

from convnext_dense.errors import ArgumentError
from convnext_dense.mm import blame as blaming
from convnext_dense.mm.blame import blame, fits_type
from convnext_dense.mm.errors import explain, one_line_errors


class Neck:
    """Stands for a class of a toolbox."""

    def __init__(self, in_channels: int, out_channels: int = 8) -> None:
        if in_channels <= 0:
            raise AssertionError  # as of an assert without a text
        self.width = in_channels // out_channels


NECKS = Registry("neck of a test")
NECKS.register_module(module=Neck)


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def error_of(action) -> Exception:
    with pytest.raises(Exception) as caught:
        action()
    return caught.value


# name of the case -> (text of the child config, words of the line)
FILES = {
    "kind": (
        "_base_ = './base.py'\nmodel = dict(neck=dict(a=1))",
        ["child.py: model.neck", "int", "_delete_"],
    ),
    "base": ("_base_ = './bse.py'", ["child.py", "no config file", "bse.py"]),
    "syntax": ("model = dict(\n    a=1\n  b=2)", ["child.py:2", "b=2"][:1]),
    "name": ("a = 1\nb = wrong + 1", ["child.py:2", "NameError", "wrong"]),
    "base value": ("_base_ = './base.py'\nb = {{_base_.absent}}", ["child.py", "absent"]),
    "imports": ("custom_imports = dict(imports=['no_such_module'])", ["custom_imports", "no_such_module"]),
    "package": ("_base_ = 'mmnone::a/b.py'", ["child.py: _base_ names 'mmnone::a/b.py'", "mmnone"]),
    "recipe": ("_base_ = 'convnext_dense::cascade/convnext_b_4x.py'", ["near: cascade/convnext_b_3x"]),
}


@pytest.mark.parametrize("case", FILES)
def test_a_config_that_cannot_be_read(case, tmp_path):
    text, words = FILES[case]
    write(tmp_path, "base.py", "model = dict(neck=3)\n")
    line = explain(error_of(lambda: Config.fromfile(write(tmp_path, "child.py", text))))
    assert "\n" not in line
    for word in words:
        assert word in line


def test_an_index_out_of_range_in_an_override():
    cfg = Config(dict(hooks=[dict(a=1), dict(a=2)]))
    line = blame(error_of(lambda: cfg.merge_from_dict({"hooks.2.a": 3})))
    assert line == "--cfg-options hooks.2: the list has 2 entries, so the indices are 0 to 1"
    line = blame(error_of(lambda: cfg.merge_from_dict({"hooks.1": 3})))
    assert line == "--cfg-options hooks.1: an entry of a list is changed key by key: write hooks.1.KEY=VALUE"


def test_a_type_of_a_pure_python_config_that_cannot_be_imported(tmp_path):
    path = write(tmp_path, "lazy.py", "from no_such_package import Thing\nmodel = dict(type=Thing)\n")
    line = blame(error_of(lambda: Config.fromfile(path).model.get("type")))
    assert "lazy.py, line 1" in line and "no_such_package" in line and "PYTHONPATH" in line


def own(**sections: object) -> Config:
    """A config with a file name."""
    cfg = Config(sections)
    object.__setattr__(cfg, "_filename", "own.py")
    return cfg


def build(**neck: object) -> None:
    cfg = own(model=dict(neck=neck))
    NECKS.build(cfg.model["neck"])


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        (dict(type="Neck", in_chanel=1), "own.py: model.neck: Neck has no argument 'in_chanel'; similar: in"),
        (dict(type="Neck", in_channels=1, z=1), "own.py: model.neck: Neck has no argument 'z'; it takes in_"),
        (dict(type="Neck"), "own.py: model.neck: Neck needs 'in_channels'"),
        (dict(in_channels=1), "own.py: model.neck has no type: {'in_channels': 1}"),
        (dict(type="Neck", in_channels=0), "own.py: model.neck (Neck): AssertionError: raise AssertionError"),
        (dict(type="Neck", in_channels="a"), "own.py: model.neck (Neck): TypeError: '<=' not supported"),
    ],
)  # fmt: skip
def test_an_entry_from_which_nothing_can_be_built(entry, line):
    assert blame(error_of(lambda: build(**entry))).startswith(line)


def test_an_unknown_type_names_its_entry_and_the_scope_that_has_it():
    import mmdet.models  # noqa: F401  registers

    cfg = own(model=dict(neck=dict(type="FPN")))
    with DefaultScope.overwrite_default_scope("mmengine"):
        line = explain(error_of(lambda: MODELS.build(cfg.model["neck"])))
    assert line == "own.py: model.neck: 'FPN' is mmdet's: write default_scope = 'mmdet', or type='mmdet.FPN'"


def test_an_entry_that_is_not_there():
    cfg = own(model=dict(train_cfg=dict(rnp=1)))
    line = blame(error_of(lambda: cfg.model.train_cfg.rpn))
    assert line == "own.py: model.train_cfg has no entry 'rpn'; similar: rnp"


def test_a_layer_that_mmcv_does_not_know():
    cfg = own(model=dict(neck=dict(type="mmdet.FPN", in_channels=[1], out_channels=1, num_outs=1)))
    cfg.model.neck.norm_cfg = dict(type="SynBN")
    line = explain(error_of(lambda: MODELS.build(cfg.model["neck"])))
    assert line.startswith("own.py: model.neck.norm_cfg: no layer is called 'SynBN'; similar: SyncBN")


def test_an_optimizer_that_mmengine_does_not_know():
    cfg = own(model=dict(), optim_wrapper=dict(optimizer=dict(type="AdaW", lr=1)))
    line = blame(error_of(lambda: build_optim_wrapper(nn.Linear(1, 1), cfg.optim_wrapper)))
    assert line.startswith("own.py: optim_wrapper.optimizer: no optimizer is called 'AdaW'; similar: ")
    assert "AdamW" in line


def test_an_optimizer_without_the_rate_that_is_multiplied():
    paramwise = dict(bias_lr_mult=2.0)
    cfg = own(model=dict(), optim_wrapper=dict(optimizer=dict(type="SGD"), paramwise_cfg=paramwise))
    line = explain(error_of(lambda: build_optim_wrapper(nn.Linear(1, 1), cfg.optim_wrapper)))
    assert line == "own.py: optim_wrapper.optimizer has no lr, which paramwise_cfg multiplies; give lr"


@pytest.mark.parametrize("path", ["bias_lr_mult", "custom_keys.weight.decay_mult"])
def test_a_factor_of_the_optimizer_that_is_no_number(path):
    optimizer = dict(type="SGD", lr=1.0, weight_decay=0.1)
    cfg = own(model=dict(), optim_wrapper=dict(optimizer=optimizer, paramwise_cfg={}))
    cfg.merge_from_dict({f"optim_wrapper.paramwise_cfg.{path}": []})
    line = explain(error_of(lambda: build_optim_wrapper(nn.Linear(1, 1), cfg.optim_wrapper)))
    assert line == f"own.py: optim_wrapper.paramwise_cfg.{path} is a list ([]); it must be a number"


def test_a_wrong_argument_of_ours_names_its_entry():
    cfg = own(model=dict(backbone=dict(type="ConvNeXt", arch="tinny")))
    error = error_of(lambda: MODELS.build(cfg.model["backbone"]))
    assert isinstance(error, ArgumentError)
    assert explain(error).startswith("own.py: model.backbone: arch='tinny'; use one of")


def test_a_wrong_type_for_a_class_of_ours_names_the_argument():
    """The arithmetic that fails lies in our code: `drop_path_rate / 8`."""
    cfg = own(model=dict(backbone=dict(type="ConvNeXt", arch="atto", drop_path_rate=dict(a=1))))
    line = explain(error_of(lambda: MODELS.build(cfg.model["backbone"])))
    assert line == ("own.py: model.backbone: drop_path_rate is a ConfigDict ({'a': 1}); ConvNeXt takes float")


@pytest.mark.parametrize(
    ("hint", "fitting", "others"),
    [
        (float, [1, 0.5], ["0.5", None, {}]),
        (int | None, [None, 3], [3.5, "3", [3]]),
        (tuple[int, ...], [(1, 2), [1, 2]], [1, "12"]),
        (Sequence[str], [["a"]], ["a"]),
        (Literal["a", "b"], ["a"], ["c", 1]),
        (dict | list[dict], [{}, []], [1]),
        (Any, [1, None, "x"], []),
    ],
)
def test_values_that_fit_an_annotation(hint, fitting, others):
    assert all(fits_type(value, hint) for value in fitting)
    assert not any(fits_type(value, hint) for value in others)


def test_a_fault_of_our_code_is_not_blamed_on_the_config(monkeypatch):
    error = error_of(lambda: build(type="Neck", in_channels=0))
    assert blame(error)
    monkeypatch.setattr(blaming, "_OURS", str(Path(__file__).parent))
    assert blame(error) is None
    assert blame(error_of(lambda: 1 / 0)) is None


@pytest.mark.parametrize(
    ("shows", "status", "text"),
    [
        (False, 1, "error: ZeroDivisionError: division by zero (tests/mm/test_blame.py:"),
        (True, None, ""),
        (None, None, ""),
    ],
)
def test_an_error_without_explanation(shows, status, text, capsys, monkeypatch):
    monkeypatch.setattr(MMLogger, "_instance_dict", {})  # no run has a log file
    with pytest.raises(ZeroDivisionError if status is None else SystemExit) as raised, one_line_errors(shows):
        1 / 0  # noqa: B018
    printed = capsys.readouterr().err
    assert printed.startswith(text)
    if status:
        assert raised.value.code == status
        assert printed.count("\n") == 1 and "--traceback" in printed
    else:
        assert "1 / 0" in "".join(traceback.format_exception(raised.value))


def test_a_run_keeps_the_traceback_in_its_log_file(tmp_path, capsys):
    logger = MMLogger.get_instance("blame", log_file=str(tmp_path / "run.log"))
    try:
        with pytest.raises(SystemExit), one_line_errors(False):
            1 / 0  # noqa: B018
        assert f"the traceback is in {tmp_path / 'run.log'}" in capsys.readouterr().err
        assert "1 / 0" in (tmp_path / "run.log").read_text()
    finally:
        for handler in logger.handlers:
            handler.close()
        MMLogger._instance_dict.pop("blame")


def test_with_traceback_a_known_error_shows_all(capsys):
    with pytest.raises(ArgumentError), one_line_errors(True):
        raise ArgumentError("a known one")
    with pytest.raises(SystemExit), one_line_errors(False):
        raise ArgumentError("a known one")
    assert capsys.readouterr().err == "error: a known one\n"
