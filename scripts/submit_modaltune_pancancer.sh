#!/usr/bin/env bash
#SBATCH --job-name=modaltune-pancancer
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=96:00:00
#SBATCH --output=slurm-%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#
# Joins finished cohorts and trains one ModalTune on all of them, with several seeds; evaluates every site.
#   bash scripts/submit_modaltune_pancancer.sh      or      sbatch scripts/submit_modaltune_pancancer.sh
# The cohorts need their features, gene tables, splits and sentences (submit_extract_patches.sh,
# submit_get_dataset.sh). Started again, it continues where it was interrupted; at its time limit it saves and
# puts itself back into the queue (scripts/interruptible.sh).
set -euo pipefail

# ---- edit here, or set in the environment; the settings that scripts share are in scripts/settings.sh
SITES="${SITES:-BRCA GBMLGG NSCLC RCC}"
NAME="${NAME:-PANCANCER}"                               # name of the union, in file names and below OUTPUT_ROOT
GENES="${GENES:-equal}"                                 # equal | union | intersection: sites whose genes differ
GENE_SCALING="${GENE_SCALING:-}"                        # site | union: within what genes are standardised; empty: by PROTOCOL
SITE_SAMPLING="${SITE_SAMPLING:-natural}"               # natural | balanced
# ----

# sbatch runs a copy of this script from elsewhere; there the folder of submission is the repository.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ -f scripts/common.sh ]] || cd "${SLURM_SUBMIT_DIR:?submit from the repository root}"
source scripts/interruptible.sh
source scripts/common.sh

read -r -a sites <<<"$SITES"
set_training_flags
runs="$(run_root)"
flags=(--onco "$NAME" --sites "${sites[@]}" --output_path "$runs/$NAME"
  --site_sampling "$SITE_SAMPLING" "${training_flags[@]}")
[[ -z "$GENE_SCALING" ]] || flags+=(--gene_scaling "$GENE_SCALING")

python -m data_utils.make_pancancer --sites "${sites[@]}" --name "$NAME" --features_encoder "$ENCODER" \
  --genes "$GENES" --protocol "$PROTOCOL"
check_files "${flags[@]}"
run_interruptible python train_modaltune_pancancer.py "${flags[@]}"
