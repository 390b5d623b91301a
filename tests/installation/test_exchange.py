"""Exchanges of installed distributions by the real pip, in a virtual environment of their own."""

import os
import signal
import subprocess
import sys
import threading
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from convnext_dense.errors import InstallationError
from convnext_dense.installation import exchange as module
from convnext_dense.installation.exchange import exchange, restore_command, uninterrupted

PLAIN = {"mmcv/__init__.py": "kind = 'plain'\n", "mmcv/ops.py": "", "mmcv/data/table.txt": "1 2\n"}
COMPILED = {"mmcv/__init__.py": "kind = 'compiled'\n", "mmcv/ops.py": "", "mmcv/_ext.so": "operators"}
# of two tags, as mmcv-lite's has
WHEEL = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py2-none-any\nTag: py3-none-any\n"
BROKEN = {"mmcv/__init__.py": "raise ImportError('undefined symbol')\n"}


def make_wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> Path:
    """A wheel with ``files``, as any build tool writes it."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = {
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{stem}.dist-info/WHEEL": WHEEL,
    }
    record = "".join(f"{file},,\n" for file in [*files, *info, f"{stem}.dist-info/RECORD"])
    with zipfile.ZipFile(folder / f"{stem}-py2.py3-none-any.whl", "w") as archive:
        for file, content in {**files, **info, f"{stem}.dist-info/RECORD": record}.items():
            archive.writestr(file, content)
    return Path(archive.filename)


class Environment:
    """A virtual environment whose pip the package uses for the time of a test."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=True)
        self.python = str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        self.site = Path(self.run("-c", code).strip())

    def run(self, *args: object) -> str:
        done = subprocess.run([self.python, *map(str, args)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def pip(self, *args: object) -> str:
        return self.run("-m", "pip", "--disable-pip-version-check", *args)

    def distribution(self, name: str) -> metadata.Distribution:
        return next(iter(metadata.distributions(name=name, path=[str(self.site)])))

    def mmcv(self) -> dict[str, str]:
        """Installed distributions of mmcv, and the content of its files."""
        versions = {
            dist.metadata["Name"]: dist.version
            for dist in metadata.distributions(path=[str(self.site)])
            if "mmcv" in dist.metadata["Name"]
        }
        files = [path for path in (self.site / "mmcv").rglob("*.*") if "__pycache__" not in path.parts]
        return versions | {path.relative_to(self.site).as_posix(): path.read_text() for path in files}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Environment:
    return Environment(tmp_path_factory.mktemp("environment") / "venv")


@pytest.fixture
def environment(made, monkeypatch) -> Environment:
    made.pip("uninstall", "--yes", "mmcv", "mmcv-lite", "onedl-mmcv")
    monkeypatch.setattr(sys, "executable", made.python)
    monkeypatch.setattr(metadata, "distribution", made.distribution)
    monkeypatch.setattr(module, "_CHECK", "import mmcv; assert mmcv.kind == 'compiled'")
    return made


@pytest.mark.parametrize(("old", "new"), [("mmcv-lite", "mmcv"), ("onedl-mmcv", "onedl-mmcv")])
def test_the_new_one_serves_alone_and_the_printed_command_takes_it_back(environment, tmp_path, old, new):
    environment.pip("install", "--no-index", make_wheel(tmp_path, old, "2.1.0", PLAIN))
    before = environment.mmcv()
    (tmp_path / "new").mkdir()
    wheel = make_wheel(tmp_path / "new", new, "2.1.0", COMPILED)
    kept = exchange([old], wheel, tmp_path / "kept")
    assert environment.mmcv() == {new: "2.1.0", **COMPILED}
    for command in restore_command(wheel, kept).split(" && "):
        environment.pip(
            *command.removeprefix("pip ").split(), *["--no-index"] * ("install" in command.split())
        )
    assert environment.mmcv() == before == {old: "2.1.0", **PLAIN}


def test_both_of_a_line_are_replaced(environment, tmp_path):
    for name, files in (("mmcv-lite", PLAIN), ("mmcv", COMPILED)):
        environment.pip("install", "--no-index", make_wheel(tmp_path, name, "2.1.0", files))
    exchange(["mmcv-lite", "mmcv"], tmp_path / "mmcv-2.1.0-py2.py3-none-any.whl", tmp_path / "kept")
    assert environment.mmcv() == {"mmcv": "2.1.0", **COMPILED}


def test_operators_that_do_not_run_leave_what_was_there(environment, tmp_path):
    environment.pip("install", "--no-index", make_wheel(tmp_path, "mmcv-lite", "2.1.0", PLAIN))
    wheel = make_wheel(tmp_path, "mmcv", "2.1.0", BROKEN)
    with pytest.raises(InstallationError, match="undefined symbol") as error:
        exchange(["mmcv-lite"], wheel, tmp_path / "kept")
    assert "Installed again: mmcv_lite-2.1.0-py2.py3-none-any.whl" in str(error.value)
    assert environment.mmcv() == {"mmcv-lite": "2.1.0", **PLAIN}


def test_a_wheel_that_cannot_be_installed_leaves_what_was_there(environment, tmp_path):
    environment.pip("install", "--no-index", make_wheel(tmp_path, "onedl-mmcv", "2.3.6", PLAIN))
    wheel = tmp_path / "onedl_mmcv-2.3.6-cp311-cp311-any.whl"
    wheel.write_text("half a wheel")
    with pytest.raises(InstallationError, match="pip install"):
        exchange(["onedl-mmcv"], wheel, tmp_path / "kept")
    assert environment.mmcv() == {"onedl-mmcv": "2.3.6", **PLAIN}


def test_what_a_kill_during_the_exchange_leaves_is_completed(environment, tmp_path):
    exchange([], make_wheel(tmp_path, "mmcv", "2.1.0", COMPILED), tmp_path / "kept")
    assert environment.mmcv() == {"mmcv": "2.1.0", **COMPILED}


@pytest.fixture
def interruptible():
    """Ctrl-C raises, also where the tests run as a background job, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_waits_for_the_end_of_the_exchange(interruptible):
    """Also where another thread, which does not block it, receives the signal."""
    steps, over = [], threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()
    with pytest.raises(KeyboardInterrupt):  # it arrives when the inner block ends
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            code = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
            steps.append(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
        steps.append("after")
    over.set()
    other.join()
    assert steps == ["True\n"]  # pip is not interrupted, either
