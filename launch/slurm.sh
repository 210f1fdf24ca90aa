#!/usr/bin/env bash
# SLURM, with a process for every GPU; workdir and data on a file system that all nodes share:
#   sbatch launch/slurm.sh train --config configs/celeba.py --workdir runs/celeba
# Before the time is up, training saves and ends; the same command goes on.
#SBATCH --job-name=vaejax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --output=%x-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"

# JAX asks SLURM which process each is, where process 0 is, and which GPU is whose.
exec srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
  .venv/bin/python launch/distributed.py "$@"
