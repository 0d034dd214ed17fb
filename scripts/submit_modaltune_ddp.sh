#!/usr/bin/env bash
#SBATCH --job-name=modaltune-ddp
#SBATCH --array=0-3
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gres=gpu:4
#SBATCH --cpus-per-task=8
#SBATCH --mem=256G
#SBATCH --time=48:00:00
#SBATCH --output=slurm-%x-%A_%a.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#
# As submit_modaltune.sh, with several GPUs that train one model: one process per GPU, each takes every n-th case.
#   PROCESSES=2 bash scripts/submit_modaltune_ddp.sh   one machine (torchrun), cohorts one after the other
#   sbatch scripts/submit_modaltune_ddp.sh             --nodes x --ntasks-per-node processes (srun), one cohort per
#                                                      array task (submit from the repository root)
# n processes that accumulate over GC cases step as one process that accumulates over n * GC cases.
set -euo pipefail

# ---- edit here, or set in the environment; the settings that scripts share are in scripts/settings.sh
GC="${GC:-1}"                                           # cases of one process that make a step
PROCESSES="${PROCESSES:-2}"                             # without SLURM; under SLURM its tasks count
# ----

# sbatch runs a copy of this script from elsewhere; there the folder of submission is the repository.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ -f scripts/common.sh ]] || cd "${SLURM_SUBMIT_DIR:?submit from the repository root}"
source scripts/interruptible.sh
source scripts/common.sh

pick_cohorts
set_training_flags
runs="$(run_root _ddp)"

if [[ -n "${SLURM_JOB_ID:-}" ]]; then
  MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
  MASTER_PORT="$((20000 + SLURM_JOB_ID % 20000))"
  export MASTER_ADDR MASTER_PORT
  # The names torchrun would set; srun passes signals on to its tasks.
  # shellcheck disable=SC2016
  launch=(srun --kill-on-bad-exit=1 bash -c
    'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS exec python "$@"' bash)
else
  launch=(torchrun --standalone --nproc-per-node "$PROCESSES")
  # torchrun itself dies of SIGUSR1 and gives its processes half a minute on SIGTERM: they are told directly.
  signal_child() {
    local pid
    for pid in $(<"/proc/$child/task/$child/children"); do
      kill -s "$1" "$pid"
    done
  }
fi

for onco in "${cohorts[@]}"; do
  echo "== $onco"
  flags=(--onco "$onco" --output_path "$runs/$onco" --gc "$GC" "${training_flags[@]}")
  check_files "${flags[@]}"
  run_interruptible "${launch[@]}" train_modaltune.py "${flags[@]}"
done
