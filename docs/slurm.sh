#!/bin/bash
# One run as a job of SLURM that is queued again when its time is up, and goes on where it was:
#   sbatch docs/slurm.sh +experiment=gao_118m
#SBATCH --job-name=sparsetrain
#SBATCH --time=12:00:00
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120

# What your cluster needs: module load ..., source .venv/bin/activate

# B: signals this shell alone, and exec puts python in its place. The folder has the job's number, which stays when it is queued again.
exec python train.py hydra.run.dir="runs/slurm/$SLURM_JOB_ID" ckpt_path=last "$@"
