#!/usr/bin/env bash
#SBATCH --job-name=modaltune-ood
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=12:00:00
#SBATCH --output=slurm-%x-%j.out
#
# Applies a trained ModalTune to other cohorts: embeddings come from the frozen weights of every seed,
# the probes are fitted on the new cohort's training patients and scored on its test patients.
#   bash scripts/deploy_OOD_modaltune.sh      or      sbatch scripts/deploy_OOD_modaltune.sh
# The new cohorts need their features, gene table and splits (submit_extract_patches.sh, submit_get_dataset.sh).
# A model trained with MISSING=learned does without expression: RNA=0, here and in submit_get_dataset.sh.
set -euo pipefail

# ---- edit here, or set in the environment
TRAINED_ON="${TRAINED_ON:-BRCA}"                        # cohort of the trained model
COHORTS="${COHORTS:-COADREAD BLCA}"                     # cohorts to apply it to
ENCODER="${ENCODER:-gigapath}"                          # gigapath | titan
TYPE="${TYPE:-gene}"                                    # gene | gene_clinical | gene_vectors | gene_clinical_vectors
MISSING="${MISSING:-drop}"                              # drop | learned, as in training
RNA="${RNA:-1}"                                         # 0: the cohorts have no expression
PROTOCOL="${PROTOCOL:-published}"                       # published | strict
WORKERS="${WORKERS:-4}"
DEVICE="${DEVICE:-auto}"                                # auto | cpu | cuda | index of a GPU
name="modaltune_${ENCODER}_${TYPE}_$MISSING"
RUN_NAME="${RUN_NAME:-${name%_drop}}"                    # as in submit_modaltune.sh
DOCTOR="${DOCTOR:-1}"                                   # 1: check all files first, stop at errors; 0: do not
EXTRA_ARGS="${EXTRA_ARGS:---use_amp}"                   # more flags of train_modaltune.py
# ----

case "$ENCODER" in
  gigapath) mil_name="longnetvit_${TYPE}_adapter" ;;
  titan) mil_name="titan_${TYPE}_adapter" ;;
  *) echo "unknown ENCODER=$ENCODER; there are gigapath and titan" >&2; exit 2 ;;
esac

# sbatch runs a copy of this script from elsewhere; there the folder of submission is the repository.
REPO="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
[[ -f "$REPO/scripts/setup_env.sh" ]] || REPO="${SLURM_SUBMIT_DIR:?submit from the repository root}"
cd "$REPO"
source scripts/setup_env.sh

read -r -a cohorts <<<"$COHORTS"
read -r -a extra <<<"$EXTRA_ARGS"
output_root="$(python -c 'from utils.constants import OUTPUT_ROOT; print(OUTPUT_ROOT)')"
run="$output_root/$RUN_NAME/$TRAINED_ON"
[[ "$RNA" == 0 ]] && extra+=(--genomics_csv_path none)

for onco in "${cohorts[@]}"; do
  echo "== $TRAINED_ON -> $onco"
  flags=(--eval_only --eval_weights "$run" --onco "$onco"
    --output_path "$run" --eval_name "ood_$onco" --mil_name "$mil_name"
    --protocol "$PROTOCOL" --workers "$WORKERS" --device "$DEVICE" ${extra[@]+"${extra[@]}"})
  if [[ "$DOCTOR" == 1 ]]; then
    python -m utils.doctor "${flags[@]}"
  fi
  python train_modaltune.py "${flags[@]}"
done
