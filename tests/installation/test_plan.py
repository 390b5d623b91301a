"""Which mmcv is compiled, as a table over environments."""

from importlib import metadata
from pathlib import Path

import pytest

from convnext_dense.errors import InstallationError
from convnext_dense.installation import plan
from convnext_dense.installation.wheel import Source
from convnext_dense.toolboxes import DISTRIBUTIONS, Distribution, Toolbox

OFFICIAL, ONEDL = Source("mmcv", "2.1.0"), Source("onedl-mmcv", "2.3.6")


class Installed:
    """A distribution whose package ``mmcv`` lies in /site."""

    def locate_file(self, path: str) -> Path:
        return Path("/site", path)


@pytest.fixture(autouse=True)
def site(monkeypatch):
    monkeypatch.setattr(metadata, "distribution", lambda name: Installed())


def boxes(*distributions: str, at: str = "/site/mmcv", **mmcv: bool) -> dict[str, Toolbox]:
    """The toolboxes of an environment with ``distributions``; ``mmcv`` are fields of that one."""
    found = {}
    for module, names in DISTRIBUTIONS.items():
        pairs = [distribution.split() for distribution in distributions]
        owners = tuple(Distribution(n, v, names[n]) for n, v in pairs if n in names)
        extra = mmcv if module == "mmcv" else {}
        there = owners or extra.get("checkout")
        version = owners[0].version if owners else None
        found[module] = Toolbox(module, owners, Path(at) if there else None, version, **extra)
    return found


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
    assert plan.source_to_compile(boxes(*installed)) == expected


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
        plan.source_to_compile(boxes(*installed))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "environment",
    [
        boxes("mmengine 0.10.7", at="/home/me/mmcv/mmcv", checkout=True),  # on PYTHONPATH
        boxes("mmcv 2.1.0", at="/home/me/mmcv/mmcv"),  # pip install -e
    ],
)
def test_a_checkout_is_never_replaced(environment):
    with pytest.raises(InstallationError, match=r"--no-build-isolation -e /home/me/mmcv$"):
        plan.source_to_compile(environment)
