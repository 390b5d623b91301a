"""Checkpoints are complete or absent; the newest is found; none is removed before the next is written."""

import errno
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config

from convnext_dense.mm.engine.checkpoint_io import (
    AtomicBackend,
    DiskFullError,
    LaterRemoval,
    newest_checkpoint,
    set_aside,
)
from convnext_dense.support.files import replacing


def save(path, step, began="a", **entries):
    content = {"meta": {"iter": step, "began": began}, "state_dict": {"w": torch.ones(100)}, "optimizer": {}}
    torch.save({**content, **entries}, path)
    return path


def test_the_furthest_whole_checkpoint_is_found_whatever_last_checkpoint_says(tmp_path):
    assert newest_checkpoint(tmp_path) == (None, [])
    assert newest_checkpoint(tmp_path / "not there") == (None, [])
    old, new = save(tmp_path / "iter_10.pth", 10), save(tmp_path / "recent.pth", 15)
    (tmp_path / "last_checkpoint").write_text(str(old))
    os.utime(new, (0, 0))  # copied without its time
    assert newest_checkpoint(tmp_path) == (new, [])


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_damaged_files_are_passed_over_and_named(tmp_path, damage):
    good, bad = save(tmp_path / "iter_10.pth", 10), save(tmp_path / "iter_20.pth", 20)
    content = bytearray(bad.read_bytes())
    place = content.index(torch.ones(100).numpy().tobytes())
    content[place] ^= 1
    bad.write_bytes({"truncated": content[:-100], "flipped": content, "empty": b""}[damage])
    found, passed_over = newest_checkpoint(tmp_path)
    assert found == good and len(passed_over) == 1 and str(bad) in passed_over[0]


def test_weights_alone_and_an_older_run_are_not_resumed_from(tmp_path):
    save(tmp_path / "iter_90.pth", 90, began="20260101_000000")
    mine = save(tmp_path / "iter_5.pth", 5, began="20260102_000000")
    best = {"meta": {"iter": 99, "began": "20260102_000000"}, "state_dict": {}}
    torch.save(best, tmp_path / "best_mIoU_iter_99.pth")
    assert newest_checkpoint(tmp_path) == (mine, [])
    torch.save(best, tmp_path / "iter_99.pth")
    assert newest_checkpoint(tmp_path) == (mine, [])
    assert newest_checkpoint(tmp_path, to_resume=False) == (tmp_path / "iter_99.pth", [])


def test_a_run_from_the_start_moves_the_checkpoints_of_the_earlier_one(tmp_path, monkeypatch):
    recipe = tmp_path / "own.py"
    recipe.write_text(f"work_dir = {str(tmp_path / 'run')!r}\n")
    cfg = Config.fromfile(recipe)
    assert set_aside(cfg) is None, "no folder yet"
    (tmp_path / "run").mkdir()
    shutil.copy(recipe, tmp_path / "run")
    assert set_aside(cfg) is None, "a config alone is no run"
    save(tmp_path / "run/iter_10.pth", 10)
    (tmp_path / "run/last_checkpoint").write_text("iter_10.pth")
    monkeypatch.chdir(tmp_path)
    inner = dict(model=dict(init_cfg=dict(checkpoint="run/iter_10.pth")))
    for start in (dict(load_from="run/iter_10.pth"), inner):
        named = cfg.copy()
        named.update(start)
        assert set_aside(named) is None, "it starts from the earlier run's weights"
    assert "1 checkpoints of an earlier run moved to" in set_aside(cfg)
    (place,) = (tmp_path / "run").iterdir()
    assert place.name.startswith("run_until_")
    assert sorted(path.name for path in place.iterdir()) == ["iter_10.pth", "last_checkpoint", "own.py"]


def test_a_file_is_replaced_when_the_new_one_is_whole_and_on_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.readlink(f"/proc/self/fd/{handle}")))
    path = tmp_path / "iter_1.pth"
    AtomicBackend().put(b"old", path)
    assert synced == [str(tmp_path / ".iter_1.pth.partial"), str(tmp_path)]
    with pytest.raises(KeyboardInterrupt), replacing(path) as partial:
        partial.write_bytes(b"ne")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["iter_1.pth"]


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "iter_1.pth"
    AtomicBackend().put(b"old", path)

    def full(self, content):
        self.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(type(path), "write_bytes", full)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    with pytest.raises(DiskFullError, match=r"iter_1\.pth: 3 MiB needed, 1 MiB free.*--resume"):
        AtomicBackend().put(bytes(3 << 20), path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["iter_1.pth"]


def test_nothing_is_removed_before_it_is_carried_out(tmp_path):
    first, second = save(tmp_path / "a.pth", 1), save(tmp_path / "b.pth", 2)
    removal = LaterRemoval()
    removal.remove(str(first))
    removal.remove(str(second))
    assert first.exists() and second.exists()
    removal.carry_out(keep=str(second))  # written again under the name that was to be removed
    assert not first.exists() and second.exists()
