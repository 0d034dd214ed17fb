#!/usr/bin/env bash
#SBATCH --job-name=modaltune-dataset
#SBATCH --array=0-7
#SBATCH --cpus-per-task=4
#SBATCH --mem=32G
#SBATCH --time=02:00:00
#SBATCH --output=slurm-%x-%A_%a.out
#
# Raw tables and extracted features -> gene table, splits, clinical features and text embeddings.
#   bash scripts/submit_get_dataset.sh      all cohorts, one after the other
#   sbatch scripts/submit_get_dataset.sh    one cohort per array task (submit from the repository root)
set -euo pipefail

# ---- edit here, or set in the environment; the settings that scripts share are in scripts/settings.sh
COHORTS="${COHORTS:-BRCA GBMLGG NSCLC RCC COADREAD BLCA STAD UCEC}"
CONCH_CONFIG="${CONCH_CONFIG:-model_configs/conch_text.json}"
GENE_CLIP="${GENE_CLIP:-}"                              # e.g. 10 for matrices of z-scores; empty: no limit
# ----

# sbatch runs a copy of this script from elsewhere; there the folder of submission is the repository.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ -f scripts/common.sh ]] || cd "${SLURM_SUBMIT_DIR:?submit from the repository root}"
source scripts/common.sh

pick_cohorts
genes=()
[[ "$RNA" == 0 ]] && genes=(--genomics_csv_path none)
for onco in "${cohorts[@]}"; do
  echo "== $onco"
  [[ "$RNA" == 0 ]] || python -m data_utils.make_gene_dataset --onco "$onco" ${GENE_CLIP:+--clip "$GENE_CLIP"}
  python -m data_utils.make_dataset --onco "$onco" --features_encoder "$ENCODER" ${genes[@]+"${genes[@]}"}
  python -m data_utils.make_clinical --onco "$onco" --features_encoder "$ENCODER" --protocol "$PROTOCOL"
  python -m data_utils.make_textemb_conch --onco "$onco" --features_encoder "$ENCODER" --protocol "$PROTOCOL" \
    --conch_config "$CONCH_CONFIG" --device "$DEVICE"
done
