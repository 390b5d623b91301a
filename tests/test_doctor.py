"""The doctor's verdicts, as a table over versions."""

import pytest

from convnext_dense import doctor


@pytest.mark.parametrize(
    ("check", "status", "words"),
    [
        (doctor.check_python((3, 11, 7)), "ok", "3.11.7"),
        (doctor.check_python((3, 9, 1)), "fail", "3.10"),
        (doctor.check_version("torch", "2.13.0+cpu"), "ok", "2.13.0"),
        (doctor.check_version("torch", "2.5.1"), "fail", "pip install 'torch>=2.6'"),
        (doctor.check_version("mmdet", None), "fail", "not installed"),
        (doctor.check_mmcv("2.1.0", None), "ok", "mmcv 2.1.0"),
        (doctor.check_mmcv(None, "2.1.0"), "ok", "mmcv-lite 2.1.0"),
        (doctor.check_mmcv("2.2.0", None), "fail", "mmcv==2.1.0"),
        (doctor.check_mmcv("2.1.0", "2.1.0"), "fail", "pip uninstall -y mmcv mmcv-lite"),
        (doctor.check_mmcv(None, None), "fail", "mmcv-lite==2.1.0"),
        (doctor.check_setuptools("80.9.0"), "ok", "80.9.0"),
        (doctor.check_setuptools("82.0.0"), "fail", "setuptools<81"),
        (doctor.check_torchvision(None), "ok", "optional"),
    ],
)
def test_verdicts(check, status, words):
    assert check.status == status
    assert words in f"{check.detail} {check.remedy}"
    assert bool(check.remedy) == (status != "ok")


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
