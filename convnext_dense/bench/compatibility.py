"""The compatibility matrix: what is tried in each environment, and the page that reports it.

Runs in any environment with the core: each check is a process of the row's own Python.
"""

import hashlib
import os
import re
import subprocess
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from convnext_dense.support.text_tables import markdown

Needs = Literal["core", "stack"]
RECIPES = ("demo/mask_rcnn_shapes", "demo/upernet_shapes")
SWAPS = (
    "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
    "mmdet::detr/detr_r50_8xb2-150e_coco.py",
    "mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py",
    "mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py",
)
# A change makes verdicts old, except of test modules, which have sums of their own, and of MATRIX.
CODE = ("convnext_dense", "configs", "tests", "tools", "setup.py")
MATRIX = ("convnext_dense/bench/compatibility.py", "tools/dev/matrix.py")  # the checks are part of the key

_IMPORT = "import convnext_dense.mm, mmdet.models, mmseg.models"
_BUILD = """
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.models.meta_device import build_on_meta
from convnext_dense.recipes import list_configs
names = list_configs()
for name in names:
    print(name, flush=True)
    build_on_meta(load_config(name))
print(len(names), "recipes resolve, and their models build")
"""
_VERSIONS = """
import importlib.metadata, json, platform, re
found = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in importlib.metadata.distributions()}
wanted = re.compile(
    r"(onedl-)?mm(engine|cv|cv-lite|det|detection|segmentation|pretrain)|numpy|pycocotools"
    r"|torch|torchvision")
shown = {name: version for name, version in sorted(found.items()) if wanted.fullmatch(name)}
print(json.dumps({"python": platform.python_version(), **shown}))
"""
_PACKAGE = ("-m", "convnext_dense")
_SHORT = ("--steps", "12", "--train", "16", "--val", "4")
_PYTEST = ("-m", "pytest", "-p", "no:cacheprovider", "-m", "not slow", "-n", "2", "--dist", "loadfile")


class Check(NamedTuple):
    """One process of the row's Python.

    It passes if it ends with status 0 and some line of its output has ``proof``, a regular expression.
    """

    name: str
    arguments: tuple[str, ...]
    proof: str = ""


@dataclass(frozen=True)
class Verdict:
    """Result of one check: ``detail`` is its last line of output, or the first line of its error."""

    check: str
    passed: bool
    seconds: float
    detail: str


def checks_of(needs: Needs, data: Path, folder: Path) -> list[Check]:
    """The checks of a row that has only the core, or the whole stack.

    Args:
        needs: what the row's environment has.
        data: a data set of shapes, with ``coco`` and ``ade20k``.
        folder: what the checks write.
    """
    if needs == "core":
        return [
            Check("import", ("-c", "import convnext_dense as c; print(c.__version__)")),
            Check("tests", (*_PYTEST, *core_tests())),
        ]
    return [
        Check("doctor", (*_PACKAGE, "doctor")),
        Check("import", ("-c", _IMPORT)),
        Check("recipes", ("-c", _BUILD)),
        Check("demos", (*_PACKAGE, "demo", *_SHORT, "--out", str(folder / "demo"))),
        *(
            Check(f"swap {source.split('/')[0]}", swap_arguments(source, folder / f"swap_{number}.py"))
            for number, source in enumerate(SWAPS)
        ),
        *(train_check(recipe, data, folder) for recipe in RECIPES),
        Check("tests", (*_PYTEST, *stack_tests())),
    ]


def tests_again(files: Sequence[str]) -> Check:
    """The test modules that changed since a row was measured."""
    return Check("tests again", (*_PYTEST, *files))


def core_tests() -> tuple[str, ...]:
    """Test folders of the rooms that import torch alone."""
    return tuple(f"tests/{room}" for room in ("layers", "models", "checkpoints", "ops", "support"))


def stack_tests() -> tuple[str, ...]:
    """Test folders whose outcome depends on the toolboxes or on torch."""
    return tuple(f"tests/{room}" for room in ("mm", "recipes", "models", "layers", "ops", "checkpoints"))


def swap_arguments(source: str, out: Path) -> tuple[str, ...]:
    """Command that swaps the backbone of a toolbox's config, trains a step and predicts."""
    return (*_PACKAGE, "swap", source, "--pretrained", "none", "--out", str(out))


def train_check(recipe: str, data: Path, folder: Path) -> Check:
    """Training of three steps, in the folder that `begun` names."""
    return Check(f"train {recipe}", train_arguments(recipe, data, begun(folder, recipe), 3))


def begun(folder: Path, recipe: str) -> Path:
    """Work folder of the training that `train_check` begins in the folder of a row."""
    return folder / "begun" / recipe


def resume_check(recipe: str, data: Path, copy: Path, name: str) -> Check:
    """Training that goes on in ``copy``, a copy of a work folder with three steps, up to the sixth."""
    return Check(name, (*train_arguments(recipe, data, copy, 6), "--resume"), r"resumed epoch: \d+, iter: 3")


def train_arguments(recipe: str, data: Path, folder: Path, steps: int) -> tuple[str, ...]:
    """Command that trains ``recipe`` up to ``steps`` and writes a checkpoint at its end."""
    part = data / ("ade20k" if "upernet" in recipe else "coco")
    return (
        *(*_PACKAGE, "train", recipe, "--data-root", str(part), "--work-dir", str(folder), "--device", "cpu"),
        *("--cfg-options", f"train_cfg.max_iters={steps}", "train_cfg.val_begin=1000000"),
    )


def run_check(check: Check, python: Path, checkout: Path, log: Path) -> Verdict:
    """Run ``check`` on the package in the folder ``checkout``; all output goes to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    env = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    with log.open("w") as file:
        command = [str(python), *check.arguments]
        done = subprocess.run(command, cwd=checkout, env=env, stdout=file, stderr=subprocess.STDOUT)
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    proven = any(re.search(check.proof, line) for line in (lines or [""]))
    if done.returncode == 0 and proven:
        detail = (lines or [""])[-1]
    else:
        detail = reason(lines) if done.returncode else f"no line with {check.proof}"
    seconds = round(time.monotonic() - start, 1)
    return Verdict(check.name, done.returncode == 0 and proven, seconds, detail[:300])


def reason(lines: Sequence[str]) -> str:
    """The line that says why a check failed: a failed check or test, else a one-line error, else the last."""
    for start in ("fail ", "FAILED ", "ERROR ", "error: "):
        found = [line for line in lines if line.startswith(start)]
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            return found[0] + more
    return lines[-1] if lines else "no output"


def versions_of(python: Path) -> str:
    """The versions of an environment as JSON text."""
    return subprocess.run([str(python), "-c", _VERSIONS], capture_output=True, text=True, check=True).stdout


def code_key(checkout: Path, parts: Iterable[str] = CODE) -> str:
    """Digest of the checks and of the sources that decide the verdicts; test modules are in `test_sums`."""
    checks = [checks_of(needs, Path("data"), Path("folder")) for needs in ("core", "stack")]
    digest = hashlib.sha256(repr(checks).encode())
    for part in parts:
        root = checkout / part
        for path in sorted([root] if root.is_file() else root.rglob("*.py")):
            name = path.relative_to(checkout).as_posix()
            if name not in MATRIX and not path.name.startswith("test_"):
                digest.update(f"{name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def test_sums(checkout: Path, needs: Needs) -> dict[str, str]:
    """Test modules of a row -> digests of their sources."""
    folders = core_tests() if needs == "core" else stack_tests()
    paths = sorted(path for folder in folders for path in (checkout / folder).rglob("test_*.py"))
    sums = {path: hashlib.sha256(path.read_bytes()).hexdigest()[:10] for path in paths}
    return {path.relative_to(checkout).as_posix(): digest for path, digest in sums.items()}


def failed_checks(record: Mapping) -> list[Mapping]:
    """The checks of a row that failed."""
    return [check for check in record["checks"] if not check["passed"]]


def changed_tests(record: Mapping | None, key: str, sums: Mapping[str, str]) -> list[str] | None:
    """Test modules that are other or new since a row was measured; ``None`` if other code is, too."""
    if record is None or record["code"] != key:
        return None
    return [path for path, digest in sums.items() if record["tests"].get(path) != digest]


# ------------------------------------------------------------------------------------------- the page


def record_of(
    row: str,
    key: str,
    sums: Mapping[str, str],
    date: str,
    versions: Mapping,
    verdicts: Sequence[Verdict],
) -> dict:
    """The results of a row as plain values, ready for JSON."""
    checks = [asdict(verdict) for verdict in verdicts]
    return dict(row=row, code=key, tests=dict(sums), date=date, versions=dict(versions), checks=checks)


def updated(record: Mapping, sums: Mapping[str, str], date: str, again: Verdict) -> dict:
    """A record in which nothing failed, after its changed test modules ran again."""
    checks = [check for check in record["checks"] if check["check"] != again.check]
    return {**record, "tests": dict(sums), "date": date, "checks": [*checks, asdict(again)]}


def page(records: Mapping[str, Mapping], descriptions: Mapping[str, str], current: Container[str]) -> str:
    """``docs/compatibility.md``.

    Args:
        records: row -> record, see `record_of`.
        descriptions: row -> what it installs, in the order of the page; rows without a record are shown.
        current: rows whose record is of the present code; others are marked.
    """
    head = ("environment", "verdict", "what ran", "date")
    rows = [head]
    for name, text in descriptions.items():
        record = records.get(name)
        if record is None:
            rows.append((f"**{name}**: {text}", "not measured", "", ""))
            continue
        failed = failed_checks(record)
        verdict = "works" if not failed else f"{len(failed)} of {len(record['checks'])} checks fail"
        date = record["date"] + ("" if name in current else " (on older code)")
        rows.append((f"**{name}**: {text}", verdict, tests_of(record), date))
    parts = [_HEAD, markdown(rows)]
    for name in descriptions:
        if name in records:
            parts.append(section(name, records[name]))
    return "\n".join(parts)


_HEAD = """# Compatibility

Written by `make matrix`, which builds each environment, runs these checks in it, and records what happened:
the doctor, the imports, every recipe resolved and its model built, both demos for a few steps, four configs
of the toolboxes with a ConvNeXt put in, the tests that depend on the stack, and training that begins in one
environment and goes on in another.
"""


def tests_of(record: Mapping) -> str:
    """The last line of the tests, and the number of the other checks."""
    said = [check["detail"] for check in record["checks"] if check["check"].startswith("tests")]
    others = len(record["checks"]) - len(said)
    return f"{others} checks; tests: {'; changed ones again: '.join(text.strip('= ') for text in said)}"


def section(name: str, record: Mapping) -> str:
    """Versions of a row, and its checks that failed with the reason."""
    versions = ", ".join(f"{package} {version}" for package, version in record["versions"].items())
    lines = [f"## {name}", "", f"{versions}. Code {record['code']}.", ""]
    failed = [f"- **{check['check']}** fails: {check['detail']}" for check in failed_checks(record)]
    lines += failed or ["All checks pass."]
    return "\n".join(lines) + "\n"
