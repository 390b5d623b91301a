#!/usr/bin/env bash
# Train on a Slurm cluster, one process a GPU; from the repository's root:
#
#     sbatch tools/slurm.sh cascade/convnext_b_3x --data-root /data/coco
#     sbatch --nodes=2 --partition=gpu tools/slurm.sh upernet/convnext_xl_in22k_640_160k --fsdp
#
# The arguments are those of tools/train.py; options of sbatch go in front of the file and win over the lines
# below. Two minutes before the time limit, or when the job is preempted, training writes a checkpoint, and
# the next start goes on from it.
#
#     PYTHON       interpreter (default: python)
#     MASTER_PORT  where the processes meet (default: from the job's number, so that two jobs do not)
#     REQUEUE=1    queue the job again when it was stopped with a checkpoint, until training is done
#
#SBATCH --job-name=convnext_dense
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
set -euo pipefail

stopped=143 # 128 + SIGTERM: training wrote a checkpoint and ended

if [[ -z "${SLURM_JOB_ID:-}" || $# -eq 0 ]]; then
    echo "error: start with: sbatch tools/slurm.sh CONFIG [options of tools/train.py]" >&2
    exit 2
fi
if [[ ! -f tools/train.py ]]; then
    echo "error: no tools/train.py in $PWD; call sbatch in the repository's root" >&2
    exit 2
fi
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 10000))}
export MASTER_ADDR MASTER_PORT
if [[ -n "${SLURM_CPUS_PER_TASK:-}" ]]; then
    export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # which srun does not take over by itself since Slurm 22.05
fi

resume=--resume
for argument in "$@"; do
    if [[ $argument == --resume || $argument == --resume=* ]]; then
        resume=
    fi
done

status=0
# the first process that fails ends the others, instead of leaving them to wait for it
srun --kill-on-bad-exit=1 "${PYTHON:-python}" tools/train.py "$@" --launcher slurm ${resume:+"$resume"} || status=$?
if [[ $status -eq $stopped && ${REQUEUE:-0} == 1 ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
