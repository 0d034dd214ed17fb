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

# ---- edit here, or set in the environment
COHORTS="${COHORTS:-BRCA GBMLGG NSCLC RCC}"             # as many as the --array above
ENCODER="${ENCODER:-gigapath}"                          # python -m models.encoders lists all
TYPE="${TYPE:-gene}"                                    # gene | gene_clinical | gene_vectors | gene_clinical_vectors
MISSING="${MISSING:-drop}"                              # drop | learned: patients who lack a modality
MODALITY_DROPOUT="${MODALITY_DROPOUT:-0}"               # with learned: hides modalities in training
MODEL_CONFIG="${MODEL_CONFIG:-}"                        # empty: the published one of the encoder
BALANCED="${BALANCED:-0}"                               # 1: every modality at one scale instead
PROTOCOL="${PROTOCOL:-published}"                       # published | strict
SEED="${SEED:-0}"
NUM_SEEDS="${NUM_SEEDS:-3}"                             # SEED, SEED + 1, ...
NUM_EPOCHS="${NUM_EPOCHS:-30}"
LR="${LR:-1e-4}"
WORKERS="${WORKERS:-4}"
DEVICE="${DEVICE:-auto}"                                # auto | cpu | cuda | index of a GPU
RUN_NAME="${RUN_NAME:-}"                                # folder below OUTPUT_ROOT; empty: after ENCODER, TYPE, MISSING
DOCTOR="${DOCTOR:-1}"                                   # 1: check all files first, stop at errors; 0: do not
EXTRA_ARGS="${EXTRA_ARGS:---use_amp}"                   # more flags of train_modaltune.py
# ----

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
