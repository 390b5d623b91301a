"""tools/slurm.sh where there is no Slurm: a stand-in for ``srun`` starts real processes as it would."""

import os
import shutil
import subprocess
import sys

import pytest
from repository import ROOT
from waiting import HANGS

from convnext_dense.data.synthetic import make_shapes

SCRIPT = ROOT / "tools/slurm.sh"

SRUN = """#!{python}
import os, subprocess, sys
arguments = sys.argv[1:]
options = []
while arguments[0].startswith("-"):
    options.append(arguments.pop(0))
with open("calls", "a") as calls:
    calls.write(" ".join(["srun", *options, os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]]) + "\\n")
    calls.write(" ".join(arguments) + "\\n")
    calls.write("cpus " + os.environ.get("SRUN_CPUS_PER_TASK", "unset") + "\\n")
if "SRUN_STATUS" in os.environ:
    sys.exit(int(os.environ["SRUN_STATUS"]))
tasks = []
for rank in range(2):
    env = dict(os.environ, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank), SLURM_NTASKS="2")
    env.update(SLURM_NODELIST="localhost", SLURM_STEP_ID="0")
    tasks.append(subprocess.Popen(arguments, env=env))
sys.exit(max(task.wait() for task in tasks))
"""
SCONTROL = """#!/bin/sh
echo "scontrol $*" >> calls
[ "$1" != show ] || echo localhost
"""


@pytest.fixture
def cluster(tmp_path):
    """Runs the script in a folder like the repository's root; the status, the output and the calls."""
    (tmp_path / "bin").mkdir()
    for name, text in (("srun", SRUN.format(python=sys.executable)), ("scontrol", SCONTROL)):
        path = tmp_path / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
    (tmp_path / "tools").symlink_to(ROOT / "tools")

    def run(*arguments: object, **variables: str) -> tuple[int, str, list[str]]:
        env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
            "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "SLURM_JOB_ID": str(40000 + os.getpid() % 10000),
            "SLURM_JOB_NODELIST": "localhost",
            **variables,
        }
        command = ["bash", str(SCRIPT), *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=HANGS)
        calls = tmp_path / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return done.returncode, done.stdout + done.stderr, lines

    return run


def test_two_tasks_train_together_and_a_second_start_resumes(cluster, tmp_path):
    make_shapes(tmp_path / "shapes", train=8, val=2, size=64)
    options = ["--data-root", tmp_path / "shapes/ade20k", "--work-dir", tmp_path / "run", "--seed", 1]
    for last, first in ((1, 1), (2, 2)):
        short = ["--cfg-options", "train_dataloader.batch_size=1", f"train_cfg.max_iters={last}"]
        short += ["train_cfg.val_interval=9", "default_hooks.logger.interval=1"]
        status, output, calls = cluster("demo/upernet_shapes", *options, "--no-accumulate", *short)
        assert status == 0, output
        assert "2 images per step (2 processes x 1)" in output
        assert f"Iter(train) [{first}/{last}]" in output
        assert calls[2].endswith("--launcher slurm --resume")
    assert "Iter(train) [1/2]" not in output
    assert (tmp_path / "run/iter_2.pth").is_file()


def test_one_failing_task_ends_the_others(cluster):
    _, _, calls = cluster("any", SRUN_STATUS="0")
    assert "--kill-on-bad-exit=1" in calls[1]


def test_tasks_get_the_cores_that_the_job_asked_for(cluster):
    _, _, calls = cluster("any", SRUN_STATUS="0", SLURM_CPUS_PER_TASK="6")
    assert calls[-1] == "cpus 6"


def test_processes_meet_on_the_first_node_at_a_port_of_the_job(cluster):
    _, _, calls = cluster("any", SRUN_STATUS="0", SLURM_JOB_ID="7123456")
    assert calls[0] == "scontrol show hostnames localhost"
    assert calls[1].endswith("localhost 23456")
    _, _, calls = cluster("any", SRUN_STATUS="0", MASTER_PORT="1234")
    assert calls[1].endswith("localhost 1234")


@pytest.mark.parametrize("given", [["--resume", "x.pth"], ["--resume=x.pth"]])
def test_a_checkpoint_that_is_named_stays(cluster, given):
    _, _, calls = cluster("any", *given, SRUN_STATUS="0")
    assert calls[2].endswith(f"any {' '.join(given)} --launcher slurm")


def test_job_is_queued_again_only_after_a_checkpoint(cluster):
    again = "scontrol requeue 5"
    for status, wanted, queued in ((143, "1", True), (143, "0", False), (1, "1", False), (0, "1", False)):
        found, _, calls = cluster("any", SRUN_STATUS=str(status), REQUEUE=wanted, SLURM_JOB_ID="5")
        assert found == status
        assert (again in calls) == queued


def test_errors_have_the_remedy(cluster, tmp_path):
    status, output, _ = cluster("any", SLURM_JOB_ID="")
    assert status == 2
    assert output == "error: start with: sbatch tools/slurm.sh CONFIG [options of tools/train.py]\n"
    (tmp_path / "tools").unlink()
    status, output, _ = cluster("any")
    assert status == 2
    assert "call sbatch in the repository's root" in output


def test_slurm_is_asked_for_a_signal_in_time():
    lines = [line for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    assert "#SBATCH --signal=TERM@120" in lines, "to the steps: the batch shell alone (B:) has no use for it"
    assert "#SBATCH --requeue" in lines
    assert os.access(SCRIPT, os.X_OK)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck")
def test_shellcheck_finds_nothing():
    done = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
