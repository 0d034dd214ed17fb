#!/usr/bin/env bash
#SBATCH --job-name=modaltune
#SBATCH --array=0-3
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=48:00:00
#SBATCH --output=slurm-%x-%A_%a.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#
# Trains ModalTune on each cohort with several seeds and evaluates it on the test patients.
#   bash scripts/submit_modaltune.sh      all cohorts, one after the other
#   sbatch scripts/submit_modaltune.sh    one cohort per array task (submit from the repository root)
# Started again, it continues where it was interrupted and skips what is finished. At its time limit it saves and
# puts itself back into the queue (scripts/interruptible.sh).
set -euo pipefail

# Settings: scripts/settings.sh, or the environment.
# sbatch runs a copy of this script from elsewhere; there the folder of submission is the repository.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ -f scripts/common.sh ]] || cd "${SLURM_SUBMIT_DIR:?submit from the repository root}"
source scripts/interruptible.sh
source scripts/common.sh

pick_cohorts
set_training_flags
runs="$(run_root)"

for onco in "${cohorts[@]}"; do
  echo "== $onco"
  flags=(--onco "$onco" --output_path "$runs/$onco" "${training_flags[@]}")
  check_files "${flags[@]}"
  run_interruptible python train_modaltune.py "${flags[@]}"
done
