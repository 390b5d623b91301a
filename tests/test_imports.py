"""Which folder may import which: core <- mm <- tools, and only mm knows OpenMMLab."""

import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

from convnext_dense.support import sources

OPENMMLAB = {"mmengine", "mmcv", "mmdet", "mmseg", "mmpretrain"}
# folder -> folders that it may import; every folder may import `errors`
ARROWS: dict[str, list[str]] = {
    "errors": [],
    "recipes": ["toolboxes"],
    "support": [],
    "ops": [],
    "toolboxes": [],
    "doctor": ["toolboxes", "support"],
    "installation": ["toolboxes", "support"],
    "layers": ["support"],
    "data": ["support"],
    "evaluation": ["support"],
    "models": ["layers", "support"],
    "checkpoints": ["models", "layers", "support"],
    "results": ["evaluation", "recipes", "support"],
    "bench": ["models", "layers", "checkpoints", "results", "support", "toolboxes"],
    "reports": ["bench", "models", "results", "evaluation", "data", "support"],
    "export": ["data", "support"],  # no torch: test_runtime
    "": ["checkpoints", "models", "recipes"],  # the public names
    # the adapter: its folders may import the core and these
    "mm.blame": [],
    "mm.errors": ["mm.blame"],
    "mm.logs": [],
    "mm.type_names": [],
    "mm.mmcv_ext": [],
    "mm.models": [],
    "mm.datasets": [],
    "mm.config": ["mm.models", "mm.datasets", "mm"],  # reading a config registers the types that it names
    "mm.evaluation": ["mm.config", "mm.datasets"],
    "mm.engine": ["mm.config", "mm.datasets", "mm.models"],
    # data sets name a hook, as a config does, and import none
    "mm.engine.hooks": ["mm.engine", "mm.datasets", "mm.models"],
    "mm.preflight": ["mm.engine", "mm.config", "mm.datasets", "mm.models"],
    "mm.swap": ["mm.config", "mm.models", "mm"],
    # training asks for the preflight (`--preflight`), which needs nothing of training's command
    "mm.apis": [
        *("mm.preflight", "mm.evaluation", "mm.engine.hooks", "mm.engine", "mm.config", "mm.datasets"),
        "mm.models",
    ],
    "mm.export": ["mm.engine", "mm.config", "mm.datasets", "mm.models"],
    "mm.bench": [
        *("mm.export", "mm.blame", "mm.apis", "mm.evaluation", "mm.engine", "mm.config", "mm.datasets"),
        "mm.models",
    ],
    # registers, and has public names
    "mm": ["mm.engine.hooks", "mm.engine", "mm.config", "mm.datasets", "mm.models", "mm.swap"],
    "mm.__main__": ["mm", "mm.engine"],
    "mm.backbones": ["mm.models"],  # the path that pure-Python configs import
    # command lines, above all else: they import core and adapter, and `cli` imports them when asked
    "commands": [
        *("mm.apis", "mm.bench", "mm.export", "mm.swap", "mm.evaluation", "mm.engine", "mm.config"),
        *("mm.datasets", "mm.models"),
    ],
    "cli": ["", "commands", "support", "toolboxes"],
    "__main__": ["cli"],
}
COMMANDS = ("cli", "commands", "__main__")  # above core and adapter
CORE_FOLDERS = [folder for folder in ARROWS if not folder.startswith("mm") and folder not in COMMANDS]
ANYWHERE = {"": ["errors"], "mm": [*CORE_FOLDERS, "mm.errors", "mm.logs", "mm.mmcv_ext", "mm.type_names"]}
# returns an mmengine Config by contract; imports mmengine only when called
LAZY = {("convnext_dense/recipes.py", "mmengine")}


def imports_of(path: Path) -> set[str]:
    """Dotted names that a file imports, anywhere in it."""
    return sources.imports_of(path.read_text())


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def folder_of(module: str) -> str:
    """``convnext_dense.mm.engine.loops`` -> ``mm.engine``; a module of the root is a folder of its own."""
    parts = module.split(".")[1:]
    folder = ROOT.joinpath("convnext_dense", *parts)
    return ".".join(parts if folder.is_dir() or len(parts) < 2 or parts[:-1] == ["mm"] else parts[:-1])


def module_of(name: str) -> str:
    """The module or package that a dotted name of ours lies in."""
    while not (ROOT / (path := name.replace(".", "/"))).is_dir() and not (ROOT / f"{path}.py").is_file():
        name = name.rpartition(".")[0]
    return name


CORE = [
    path for path in files("convnext_dense") if not {"mm", "commands"} & set(path.relative_to(ROOT).parts)
]


def test_the_walk_sees_the_code():
    assert len(CORE) > 5
    assert "mmengine.model.BaseModule" in imports_of(ROOT / "convnext_dense/mm/models/backbones.py")


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_core_imports_no_openmmlab_and_no_adapter(path):
    for name in imports_of(path):
        package = name.split(".")[0]
        assert package not in OPENMMLAB or (str(path.relative_to(ROOT)), package) in LAZY, name
        assert not name.startswith("convnext_dense.mm"), name


@pytest.mark.parametrize("path", files("convnext_dense") + files("configs"), ids=lambda path: path.stem)
def test_nothing_imports_tools(path):
    assert not {name for name in imports_of(path) if name.split(".")[0] == "tools"}


def test_core_works_where_openmmlab_is_absent():
    code = f"""
import sys
for name in {sorted(OPENMMLAB)}: sys.modules[name] = None
import torch, convnext_dense
assert len(convnext_dense.ConvNeXt('tiny')(torch.zeros(1, 3, 32, 32))) == 4
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_table_has_every_folder():
    package = ROOT / "convnext_dense"
    modules = [path.relative_to(ROOT).with_suffix("") for path in files("convnext_dense")]
    folders = {folder_of(".".join(path.parts).removesuffix(".__init__")) for path in modules}
    assert folders == set(ARROWS)
    for folder in [package, *package.rglob("*")]:
        if folder.is_dir() and folder.name != "__pycache__":
            assert (folder / "__init__.py").read_text().startswith('"""'), f"{folder}: no contents page"


@pytest.mark.parametrize("path", files("convnext_dense"), ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows(path):
    folder = folder_of(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    core = not folder.startswith("mm") and folder != "commands"
    allowed = {folder, *ARROWS[folder], *ANYWHERE["" if core else "mm"]}
    for name in imports_of(path):
        if name.split(".")[0] == "convnext_dense":
            assert folder_of(module_of(name)) in allowed, f"{folder} imports {name}"


def test_arrows_form_no_circle():
    """Reading a config registers types, so ``mm`` itself is left out."""
    arrows = {name: [to for to in targets if to != "mm"] for name, targets in ARROWS.items() if name != "mm"}
    while arrows:
        leaves = {folder for folder, targets in arrows.items() if not set(targets) & set(arrows)}
        assert leaves, f"a circle among {sorted(arrows)}"
        arrows = {folder: targets for folder, targets in arrows.items() if folder not in leaves}
