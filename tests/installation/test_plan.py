"""Which mmcv is compiled, as a table over environments."""

from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
from environments import environment
from packaging.specifiers import SpecifierSet

from convnext_dense.errors import InstallationError
from convnext_dense.installation import plan
from convnext_dense.installation.wheel import Source
from convnext_dense.toolboxes import SUPPORTED, Toolbox

OFFICIAL, ONEDL = Source("mmcv", "2.1.0"), Source("onedl-mmcv", "2.3.6")


class Installed:
    """A distribution whose package ``mmcv`` lies in /site."""

    def locate_file(self, path: str) -> Path:
        return Path("/site", path)


@pytest.fixture(autouse=True)
def site(monkeypatch):
    monkeypatch.setattr(metadata, "distribution", lambda name: Installed())


def test_what_is_compiled_is_supported():
    for source, line in ((plan.OFFICIAL, "official"), (plan.ONEDL, "onedl")):
        assert source.version in SpecifierSet(SUPPORTED[line]["mmcv"])


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        ((), OFFICIAL),
        (("mmengine 0.10.7", "mmdet 3.3.0"), OFFICIAL),
        (("mmengine 0.10.7", "mmcv-lite 2.0.1"), OFFICIAL),
        (("mmcv-lite 2.1.0", "mmcv 2.1.0"), OFFICIAL),  # both are removed
        (("onedl-mmengine 0.10.12",), ONEDL),
        (("onedl-mmdetection 3.5.1", "onedl-mmcv 2.3.7"), Source("onedl-mmcv", "2.3.7")),
    ],
)
def test_the_line_that_is_there(installed, expected):
    assert plan.source_to_compile(environment(*installed)) == expected


@pytest.mark.parametrize(
    "installed",
    [
        ("onedl-mmcv 2.3.6", "mmcv-lite 2.1.0"),
        ("onedl-mmdetection 3.5.1", "mmcv-lite 2.1.0"),
        ("mmengine 0.10.7", "onedl-mmengine 0.10.12"),
    ],
)
def test_a_mixture_is_refused_in_one_line_with_the_remedy(installed):
    with pytest.raises(InstallationError, match="pip uninstall -y ") as error:
        plan.source_to_compile(environment(*installed))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "mmcv",
    [
        Toolbox("mmcv", (), Path("/home/me/mmcv/mmcv"), "2.1.0", checkout=True),  # on PYTHONPATH
        replace(environment("mmcv 2.1.0")["mmcv"], folder=Path("/home/me/mmcv/mmcv")),  # pip install -e
    ],
)
def test_a_checkout_is_never_replaced(mmcv):
    with pytest.raises(InstallationError, match=r"--no-build-isolation -e /home/me/mmcv$"):
        plan.source_to_compile({**environment("mmengine 0.10.7"), "mmcv": mmcv})
