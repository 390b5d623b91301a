"""Replace the installed mmcv by a wheel, so that a failure leaves what was there.

pip cannot exchange two distributions that own the same files in one step. The old one is therefore packed
into a wheel first: it can be installed again without a network, by this module or by hand.
"""

import base64
import contextlib
import csv
import hashlib
import io
import re
import shlex
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from convnext_dense.errors import InstallationError
from convnext_dense.installation.pip import pip
from convnext_dense.support.files import replacing

_CHECK = """
import torch, mmcv._ext
from mmcv.ops import RoIAlign, nms
for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
    box = torch.tensor([[0., 0., 4., 4.]], device=device)
    pooled = RoIAlign(2)(torch.ones(1, 1, 4, 4, device=device), torch.cat([box[:, :1], box], 1))
    assert pooled.flatten().tolist() == [1.0] * 4, pooled
    assert nms(box, box.new_ones(1), 0.5)[1].tolist() == [0]
"""
_OF_THIS_INSTALLATION = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}


def check_installed() -> str | None:
    """``None`` if mmcv's compiled operators import and run; else the last line of the error.

    Runs in a new process: this one may have loaded another mmcv, and a wrong binary may crash.
    """
    done = subprocess.run([sys.executable, "-c", _CHECK], capture_output=True, text=True)
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]


def exchange(old: Sequence[str], wheel: Path, kept: Path) -> list[Path]:
    """Install ``wheel`` in place of the distributions ``old``, and check that its operators run.

    Ctrl-C and SIGTERM wait until that is done. A process that is killed in these seconds leaves the old
    distributions or none; the next call then installs ``wheel``.

    Args:
        old: names of all distributions that own the files of the new one.
        wheel: the new distribution.
        kept: folder for wheels of the old ones.

    Returns:
        the wheels of the old ones; those that no pip has installed have none.

    Raises:
        InstallationError: the operators do not run, or pip failed; the old distributions are back.
    """
    with uninterrupted():
        backups = [packed for name in old if (packed := pack(name, kept))]
        try:
            if old:
                pip("uninstall", "--yes", *old)
                pip("install", "--no-deps", "--no-index", str(wheel))
            else:  # with what it imports
                pip("install", str(wheel))
            if problem := check_installed():
                raise InstallationError(f"{wheel.name}: its operators do not run: {problem}")
        except InstallationError as error:
            raise InstallationError(f"{error}\n{_restored(wheel, backups)}") from None
    return backups


def restore_command(wheel: Path, backups: Sequence[Path]) -> str:
    """The command that takes the exchange back."""
    return f"pip uninstall -y {_name(wheel)} && pip install --no-deps {shlex.join(map(str, backups))}"


def _restored(wheel: Path, backups: list[Path]) -> str:
    """Take the exchange back, and say so."""
    try:
        pip("uninstall", "--yes", _name(wheel))
        if backups:
            pip("install", "--no-deps", "--no-index", "--force-reinstall", *map(str, backups))
    except InstallationError:
        return f"Remedy: {restore_command(wheel, backups)}"
    return f"Installed again: {', '.join(path.name for path in backups) or 'nothing, as before'}"


def _name(wheel: Path) -> str:
    return wheel.name.split("-")[0].replace("_", "-")


_ENDING = [signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the block is done, in this process and those that it starts.

    Processes inherit the mask of this thread; the handlers are for signals that reach another thread.
    """
    came: list[int] = []
    before = {signum: signal.signal(signum, lambda number, _: came.append(number)) for signum in _ENDING}
    masks = hasattr(signal, "pthread_sigmask")  # not on Windows
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING) if masks else set()
    try:
        yield
    finally:
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for signum, handler in before.items():
            signal.signal(signum, handler)
        for number in dict.fromkeys(came):
            signal.raise_signal(number)


def pack(name: str, folder: Path) -> Path | None:
    """Write an installed distribution as a wheel to ``folder``; ``None`` if it was not made from a wheel."""
    dist = metadata.distribution(name)
    tags = re.findall(r"^Tag: (\S+)-(\S+)-(\S+)$", dist.read_text("WHEEL") or "", re.MULTILINE)
    if not tags:
        return None
    files = [
        (file.as_posix(), Path(str(dist.locate_file(file))))
        for file in dist.files or ()
        if ".." not in file.parts  # scripts
        and "__pycache__" not in file.parts
        and not (file.parts[0].endswith(".dist-info") and file.name in _OF_THIS_INSTALLATION)
    ]
    info = next(path.split("/")[0] for path, _ in files if path.split("/")[0].endswith(".dist-info"))
    tag = "-".join(".".join(dict.fromkeys(parts)) for parts in zip(*tags, strict=True))  # py2.py3-none-any
    wheel = folder / f"{info.removesuffix('.dist-info')}-{tag}.whl"
    record = io.StringIO()
    with replacing(wheel) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, source in files:
            if source.is_file():
                content = source.read_bytes()
                digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                csv.writer(record).writerow([path, f"sha256={digest}", len(content)])
                archive.writestr(path, content)
        csv.writer(record).writerow([f"{info}/RECORD", "", ""])
        archive.writestr(f"{info}/RECORD", record.getvalue())
    return wheel
