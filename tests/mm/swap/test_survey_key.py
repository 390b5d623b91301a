"""The key of a verdict covers the code that runs in a trial, and the versions."""

import sys

import pytest
from mmengine.registry import MODELS

import convnext_dense.mm  # noqa: F401
from convnext_dense.mm.models import registry
from convnext_dense.mm.swap.survey_key import changed, deciding_code, environment, key_of
from convnext_dense.mm.swap.verdict import judge
from convnext_dense.toolboxes import read_toolboxes

OURS = "convnext_dense"


def modules_that_run(name: str) -> set[str]:
    """Our modules whose functions are called while a config is judged, apart from their import."""
    judge(name, {})  # imports what it needs
    seen = set()

    def note(frame, event: str, _: object) -> None:
        if event == "call":
            seen.add(str(frame.f_globals.get("__name__")))

    sys.setprofile(note)
    try:
        judge(name, {})
    finally:
        sys.setprofile(None)
    return {module for module in seen if module.split(".")[0] == OURS}


@pytest.mark.parametrize(
    "name",
    [
        "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
        "mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py",
    ],
)
def test_the_walk_finds_all_that_runs_in_a_trial(name):
    used = modules_that_run(name)
    assert {f"{OURS}.mm.swap.channels", f"{OURS}.models.convnext"} <= used  # the profile sees them
    assert used <= set(deciding_code())


def test_the_walk_finds_every_registered_model():
    registry.MODELS.import_from_location()
    classes = [*MODELS.module_dict.values(), *registry.MODELS.module_dict.values()]
    ours = {kind.__module__ for kind in classes if kind.__module__.split(".")[0] == OURS}
    assert {f"{OURS}.mm.models.backbones", f"{OURS}.mm.models.float32"} <= ours
    assert ours <= set(deciding_code())


def test_what_no_trial_runs_does_not_count():
    found = deciding_code()
    assert not [name for name in found if name.split(".")[1:3] in (["mm", "engine"], ["mm", "preflight"])]
    assert f"{OURS}.mm.swap.survey_report" not in found


def test_the_environment_names_line_operators_and_versions():
    found = environment()
    boxes = read_toolboxes()
    assert found["line"] == boxes["mmdet"].line
    assert found["operators"] == ("compiled" if boxes["mmcv"].compiled else "portable")
    assert boxes["mmdet"].version in found.values() and boxes["mmseg"].version in found.values()


def test_any_change_of_code_or_versions_is_another_key():
    code, versions = {"a": "1", "b": "2"}, {"torch": "2.13.0"}
    keys = {
        key_of(code, versions),
        key_of({**code, "a": "3"}, versions),
        key_of({"a": "1"}, versions),
        key_of(code, {"torch": "2.14.1"}),
    }
    assert len(keys) == 4
    assert key_of({"b": "2", "a": "1"}, versions) == key_of(code, versions)
    assert changed(code, {"a": "3", "c": "2"}) == ["a", "b", "c"]
