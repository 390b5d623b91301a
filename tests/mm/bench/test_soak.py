"""The soak test at small size: what it reports when training behaves as documented, and when not."""

import random
import signal

import pytest
import torch

from convnext_dense.data.synthetic import make_shapes
from convnext_dense.mm.bench import soak

STEPS = 24


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("soak")
    make_shapes(folder / "shapes", train=16, val=2, size=64)
    return soak.make_case("segmentation", folder, folder / "shapes", STEPS, small=True)


@pytest.fixture(scope="module")
def alone(case, tmp_path_factory):
    return soak.run_through(case, tmp_path_factory.mktemp("alone") / "run")


def test_a_run_killed_three_times_ends_with_the_same_bits(case, alone, tmp_path):
    kills = list(
        soak.kill_at_random(case, tmp_path / "run", 3, random.Random(109))
    )  # within a second of the first step
    assert [kill.signal for kill in kills] == ["SIGTERM", "SIGKILL", "SIGKILL"]
    assert soak.check_same(alone, soak.run_through(case, tmp_path / "run")) > 100


def test_a_full_disk_is_survived(case, alone, tmp_path):
    soak.fill_the_disk(case, tmp_path / "run", megabytes=int(3.5 * alone.stat().st_size) >> 20)
    soak.check_same(alone, tmp_path / "run.pth")


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_both_recipes_accumulate_and_keep_the_best(tmp_path, task):
    from convnext_dense.mm.config.edit import set_batch
    from convnext_dense.mm.config.load import load_config

    cfg = load_config(str(soak.make_case(task, tmp_path, tmp_path, 8).config))
    set_batch(cfg, 1)
    assert cfg.train_cfg.accumulate == 2
    assert cfg.train_cfg.type == ("IterStepLoop" if task == "segmentation" else "EpochStepLoop")
    assert cfg.default_hooks.checkpoint.save_best in ("mIoU", "coco/bbox_mAP")


def test_one_bit_of_a_checkpoint_is_found(alone, tmp_path):
    content = torch.load(alone, weights_only=False)
    content["meta"]["time"] = "another"
    content["optimizer"]["state"][3]["exp_avg"].view(-1)[0] += 1e-9
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(soak.SoakError, match=r"differ in 1 places: /optimizer/state/3/exp_avg$"):
        soak.check_same(alone, tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ({"a": [1, 2.0]}, {"a": [1, 2.0]}, []),
        ({"a": [1, 2.0]}, {"a": [1, 2.5]}, ["/a/1"]),
        ({"a": 1}, {"b": 1}, ["/a: int and NoneType", "/b: NoneType and int"]),
        ({"a": (1,)}, {"a": (1, 2)}, ["/a: 1 and 2 entries"]),
        ({"x": torch.ones(1)}, {"x": torch.ones(1, dtype=torch.float64)}, ["/x"]),
        ({"meta": {"time": 1, "iter": 2}}, {"meta": {"time": 3, "iter": 2}}, []),
    ],
)
def test_differences_name_the_leaves(first, second, found):
    assert soak.differences(first, second) == found


def test_the_last_line_names_the_final_checkpoint(alone):
    last = alone.parent.with_name("run.log").read_text().splitlines()[-1]
    assert last.endswith(f"training is done; final checkpoint: {alone}")


@pytest.mark.parametrize("done", [True, False])
def test_a_signal_after_the_end_of_training_is_no_kill(case, tmp_path, monkeypatch, done):
    """A stand-in for training that has no handler any more, or never had one."""
    script = tmp_path / "train.py"
    lines = "Iter(train) [24/24]\n" + "training is done" * done
    script.write_text(f"import time\nprint({lines!r}, flush=True)\ntime.sleep(30)\n")
    monkeypatch.setattr(soak, "TRAIN", (script,))
    rng = random.Random()
    monkeypatch.setattr(rng, "choice", lambda signals: signal.SIGTERM)
    words = "training ended before the first kill" if done else "SIGTERM ended in status -15"
    with pytest.raises(soak.SoakError, match=words):
        list(soak.kill_at_random(case, tmp_path / "run", 1, rng))


def test_a_process_that_outlives_training_is_an_error(case, tmp_path, monkeypatch):
    """A stand-in for training that starts a process and exits."""
    script = tmp_path / "train.py"
    script.write_text(
        "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(30)'])\n"
    )
    monkeypatch.setattr(soak, "TRAIN", (script,))
    training = soak.Training(case, tmp_path / "run")
    clock = iter(range(0, 1000, 5))
    monkeypatch.setattr(soak.time, "monotonic", lambda: next(clock))
    with pytest.raises(soak.SoakError, match="are left behind"):
        training.wait()
    (child,) = soak.session_processes(training.process.pid)
    soak.os.kill(child, signal.SIGKILL)
