#!/usr/bin/env bash
#SBATCH --job-name=baselines
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
# Trains the baselines on each cohort with several seeds, and prints one table of all methods.
#   bash scripts/submit_baselines.sh      all cohorts, one after the other
#   sbatch scripts/submit_baselines.sh    one cohort per array task (submit from the repository root)
# Started again, it continues where it was interrupted and skips what is finished. Runs of ModalTune on the same
# cohorts join the table by COMPARE_WITH. Models are judged by their heads where they have any.
set -euo pipefail

# ---- edit here, or set in the environment; the settings that scripts share are in scripts/settings.sh
MODELS="${MODELS:-abmil transmil mlp snn gene_mixer survpath abmil_cat transmil_cat}"
CONFIG_DIR="${CONFIG_DIR:-model_configs}"               # holds baseline_<model>.json
RECIPE="${RECIPE:-ours}"                                 # ours | original (docs/compare.md); it then decides LR and NUM_EPOCHS
OBJECTIVE="${OBJECTIVE:-multitask}"                     # multitask | subtype | survival
COMPARE_WITH="${COMPARE_WITH:-}"                        # more run folders for the table, such as that of ModalTune
RUN_NAME="${RUN_NAME:-baselines}"                       # folder below OUTPUT_ROOT
EXTRA_ARGS="${EXTRA_ARGS:-}"                            # more flags of train_modaltune.py
# ----

# sbatch runs a copy of this script from elsewhere; there the folder of submission is the repository.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ -f scripts/common.sh ]] || cd "${SLURM_SUBMIT_DIR:?submit from the repository root}"
source scripts/interruptible.sh
source scripts/common.sh

pick_cohorts
read -r -a models <<<"$MODELS"
read -r -a extra <<<"$EXTRA_ARGS"
numbers=(--num_epochs "$NUM_EPOCHS" --lr "$LR")
[[ "$RECIPE" == ours ]] || numbers=()
runs="$(python -c 'from utils.constants import OUTPUT_ROOT; print(OUTPUT_ROOT)')/$RUN_NAME"

for onco in "${cohorts[@]}"; do
  for model in "${models[@]}"; do
    echo "== $model on $onco"
    flags=(--onco "$onco" --mil_name "$model" --model_config "$CONFIG_DIR/baseline_$model.json"
      --output_path "$runs/$model/$onco" --objective "$OBJECTIVE" --protocol "$PROTOCOL"
      --seed "$SEED" --num_seeds "$NUM_SEEDS" --recipe "$RECIPE" ${numbers[@]+"${numbers[@]}"}
      --workers "$WORKERS" --device "$DEVICE" ${extra[@]+"${extra[@]}"})
    check_files "${flags[@]}"
    run_interruptible python train_modaltune.py "${flags[@]}"
  done
done
read -r -a others <<<"$COMPARE_WITH"
python -m utils.evaluation.tables "$runs" ${others[@]+"${others[@]}"} --heads --output "$runs/tables"
