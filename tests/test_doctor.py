"""The doctor's verdicts, as a table over versions."""

import pytest
from environments import OFFICIAL, ONEDL, environment

from convnext_dense import doctor


@pytest.mark.parametrize(
    ("check", "status", "words"),
    [
        (doctor.check_python((3, 11, 7)), "ok", "3.11.7"),
        (doctor.check_python((3, 9, 1)), "fail", "3.10"),
        (doctor.check_version("torch", "2.13.0+cpu"), "ok", "2.13.0"),
        (doctor.check_version("torch", "2.5.1"), "fail", "pip install 'torch>=2.6'"),
        (doctor.check_version("pycocotools", None), "fail", "pip install 'pycocotools>=2.0.6'"),
        (doctor.check_torchvision(None), "ok", "optional"),
    ],
)
def test_verdicts(check, status, words):
    assert check.status == status
    assert words in f"{check.detail} {check.remedy}"
    assert bool(check.remedy) == (status != "ok")


def verdicts(*distributions: str) -> dict[str, doctor.Check]:
    """The doctor's lines about an environment with these distributions, by name."""
    checks = doctor.check_toolboxes(environment(*distributions))
    for check in checks:
        assert "\n" not in check.detail + check.remedy
        assert bool(check.remedy) == (check.status != "ok")
    return {check.name: check for check in checks}


@pytest.mark.parametrize("line", [OFFICIAL, ONEDL], ids=["official", "fork"])
def test_each_line_by_itself_is_fine(line):
    checks = verdicts(*line)
    assert [check.status for check in checks.values()] == ["ok"] * 4
    for distribution, check in zip(line, checks.values(), strict=True):
        assert check.detail.startswith(distribution)
    assert "mended here: " in checks["mmengine"].detail


def test_an_empty_environment():
    checks = verdicts()
    assert list(checks) == ["mmengine", "mmcv", "mmdet", "mmseg"]
    for check in checks.values():
        assert (check.status, check.remedy) == ("fail", "pip install 'convnext_dense[lite]'")


def test_a_fork_without_its_mmcv_gets_the_forks():
    checks = verdicts(ONEDL[0], *ONEDL[2:])
    assert checks["mmcv"].status == "fail"
    assert checks["mmcv"].remedy == "pip install 'convnext_dense[onedl]'"


def test_a_mixture_is_one_line():
    checks = verdicts(*ONEDL, "mmcv-lite 2.1.0")
    failed = [check for check in checks.values() if check.status == "fail"]
    assert [check.name for check in failed] == ["toolboxes"]
    assert failed[0].remedy == "pip uninstall -y mmcv-lite onedl-mmcv && pip install 'convnext_dense[onedl]'"


def test_an_untested_mixture_is_a_note():
    checks = verdicts(*OFFICIAL[:2], ONEDL[2], OFFICIAL[3])
    assert [check.status for check in checks.values()] == ["ok"] * 4 + ["note"]


def test_opencv_in_two_versions():
    same = {
        "opencv-python": "4.12.0.88",
        "opencv-python-headless": "4.12.0.88",
        "opencv-contrib-python": None,
    }
    assert doctor.check_opencv(same) is None
    assert doctor.check_opencv({}) is None
    check = doctor.check_opencv({**same, "opencv-python-headless": "5.0.0.93"})
    assert check.status == "note"
    assert check.remedy == "pip install --force-reinstall --no-deps opencv-python==4.12.0.88"


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        ("No module named 'ftfy'", "pip install ftfy"),
        ("No module named 'yaml.nodes'", "pip install pyyaml"),
        ("No module named 'torchvision'", "install the torchvision that matches this torch"),
        ("No module named 'mmdet'", "fix the lines above first"),
        (
            "cannot import name 'apply_chunking_to_forward' from 'transformers.modeling_utils'",
            "mmpretrain's multimodal models need a transformers below 5",
        ),
        ("libGL.so.1: cannot open shared object file", "fix the lines above first"),
    ],
)
def test_a_toolbox_that_does_not_import(monkeypatch, error, remedy):
    kind = "ModuleNotFoundError" if error.startswith("No module") else "ImportError"
    monkeypatch.setattr(doctor, "_ZOO", f"raise {kind}({error!r})")
    check = doctor.check_imports()
    assert (check.status, check.detail, check.remedy) == ("fail", f"{kind}: {error}", remedy)


@pytest.mark.parametrize(
    ("line", "status"),
    [("mmcv compiled", "ok"), ("torchvision", "ok"), ("mmcv compiled for the CPU alone", "note")],
)
def test_ops_by_name(monkeypatch, line, status):
    monkeypatch.setattr(doctor, "probe", lambda code: (True, line))
    check = doctor.check_ops()
    assert check.status == status and ("--force" in check.remedy) == (status == "note")


def test_an_mmpretrain_that_does_not_import_is_a_note(monkeypatch):
    monkeypatch.setattr(doctor, "_MMPRETRAIN", "raise ModuleNotFoundError(\"No module named 'einops'\")")
    assert doctor.check_mmpretrain(False) is None
    check = doctor.check_mmpretrain(True)
    assert check.status == "note" and check.remedy.startswith("pip install einops (only")


def test_a_probe_survives_a_crash():
    good, line = doctor.probe("import os; os.abort()")
    assert not good
    assert line
    assert doctor.probe("print(1); print('last')") == (True, "last")
    assert doctor.probe("raise RuntimeError('operator torchvision::nms does not exist')") == (
        False,
        "RuntimeError: operator torchvision::nms does not exist",
    )


def test_a_broken_torchvision_is_a_note_with_a_remedy(monkeypatch):
    monkeypatch.setattr(
        doctor, "_TORCHVISION", "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    check = doctor.check_torchvision("0.20.0")
    assert check.status == "note"
    assert "pip uninstall torchvision" in check.remedy
