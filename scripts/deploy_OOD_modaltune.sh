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

# ---- edit here, or set in the environment; the settings that scripts share are in scripts/settings.sh
TRAINED_ON="${TRAINED_ON:-BRCA}"                        # cohort of the trained model
COHORTS="${COHORTS:-COADREAD BLCA}"                     # cohorts to apply it to
# ----

# sbatch runs a copy of this script from elsewhere; there the folder of submission is the repository.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ -f scripts/common.sh ]] || cd "${SLURM_SUBMIT_DIR:?submit from the repository root}"
source scripts/common.sh

read -r -a cohorts <<<"$COHORTS"
read -r -a extra <<<"$EXTRA_ARGS"
[[ "$RNA" == 0 ]] && extra+=(--genomics_csv_path none)
run="$(run_root)/$TRAINED_ON"

for onco in "${cohorts[@]}"; do
  echo "== $TRAINED_ON -> $onco"
  flags=(--eval_only --eval_weights "$run" --onco "$onco"
    --output_path "$run" --eval_name "ood_$onco" --mil_name "$(mil_name)"
    --protocol "$PROTOCOL" --workers "$WORKERS" --device "$DEVICE" ${extra[@]+"${extra[@]}"})
  check_files "${flags[@]}"
  python train_modaltune.py "${flags[@]}"
done
