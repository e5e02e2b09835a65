#!/bin/bash
# A run on a Slurm cluster: Ray on each node of the allocation, the driver on the first (docs/guides/cluster.md).
#
#   sbatch deploy/slurm.sh mine.yaml detect.score_floor=0.1
#
# Input, output and weights must be visible to all nodes. Edit the lines marked CHANGE.
#SBATCH --job-name=labeler
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=labeler-%j.log
set -euo pipefail

environment="${LABELER_ENV:-.venv}" # CHANGE: installed from requirements.lock, on a disk that all nodes see
requeues="${LABELER_REQUEUES:-3}"
if [ $# -lt 1 ]; then
  echo "usage: sbatch deploy/slurm.sh CONFIG [key=value ...]" >&2
  exit 2
fi
PATH="$(realpath "$environment")/bin:$PATH"
export PATH

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${hosts%%$'\n'*}
port=$((20000 + SLURM_JOB_ID % 20000)) # two jobs may share a node
export RAY_TMPDIR="${TMPDIR:-/tmp}/r$SLURM_JOB_ID" # a short path on the node's own disk: Ray puts sockets there
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600
export OMP_NUM_THREADS=1

# On every node: start Ray; on the first also label, then stop Ray. It passes no address, hence ray.address=auto.
code=0
srun --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=0 bash -c 'mkdir -p "$RAY_TMPDIR" && exec "$@"' each \
  ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" --disable-usage-stats -- \
  bash -c 'touch "$RAY_TMPDIR/began" && exec python -m labeler label "$@" ray.address=auto' labeler "$@" || code=$?

# symmetric-run exits with 0 if Ray itself does not start.
if [ "$code" = 0 ] && [ ! -e "$RAY_TMPDIR/began" ]; then code=1; fi
# Exit code 2: the job was rejected for the reason in the log, and a retry would be rejected too. Otherwise, requeue to resume.
if [ "$code" != 0 ] && [ "$code" != 2 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "$requeues" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
