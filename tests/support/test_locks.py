"""One process writes while the others wait; a file system without locks stops nobody."""

import errno
import fcntl
import logging
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from repository import ROOT
from waiting import wait_until

from convnext_dense.support.locks import locked

HOLD = """
import sys, time
from pathlib import Path
from convnext_dense.support.locks import locked
with locked(Path(sys.argv[1])) as held:
    print(held, flush=True)
    time.sleep(600)
"""


def holder(path: Path) -> subprocess.Popen:
    """A process that holds the lock of ``path`` until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdout=-1, text=True)
    assert process.stdout.readline() == "True\n"
    return process


def test_who_waits_says_so_once_and_a_killed_process_frees_its_lock(tmp_path, caplog):
    path, got = tmp_path / "a.txt", []
    process = holder(path)

    def wait() -> None:
        with locked(path) as held:
            got.append(held)

    waiter = threading.Thread(target=wait)
    waiter.start()
    wait_until(lambda: caplog.records)
    assert got == []
    process.send_signal(signal.SIGKILL)
    process.wait()
    waiter.join()
    assert got == [True]
    (record,) = caplog.records
    assert record.getMessage() == f"{path}: waiting for another process that writes it"


def test_a_lock_leaves_the_file_alone_and_is_free_after_an_error(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("content")
    for _ in range(2):
        with pytest.raises(OSError, match="of the block"), locked(path) as held:
            assert held
            raise OSError("of the block")
    assert path.read_text() == "content"
    visible = [file.name for file in tmp_path.iterdir() if not file.name.startswith(".")]
    assert visible == ["a.txt"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path, monkeypatch, caplog, number):
    def refuse(*args):
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level(logging.INFO), locked(tmp_path / "a.txt") as held:
        assert not held
    assert "no locks here" in caplog.text


def test_a_folder_in_which_nothing_can_be_created(tmp_path):
    (tmp_path / ".a.txt.lock").mkdir()  # as in a read-only folder, which stops everyone but root
    with locked(tmp_path / "a.txt") as held:
        assert not held
