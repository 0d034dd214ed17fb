#!/usr/bin/env bash
#SBATCH --job-name=modaltune-predict
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=12:00:00
#SBATCH --output=slurm-%x-%j.out
#
# Predicts patients without labels by trained models: subtype, risk and survival, by all folds and seeds together.
#   RUNS=runs/modaltune_gigapath_gene/BRCA FEATURES_DIR=new/features GENES=new/rna.csv bash scripts/predict_modaltune.sh
# SLIDES_DIR instead of FEATURES_DIR extracts the features first. What the columns mean: docs/prediction.md.
set -euo pipefail

# ---- edit here, or set in the environment; the settings that scripts share are in scripts/settings.sh
RUNS="${RUNS:-}"                                        # folders of runs, of evaluations or bundles
SLIDES_DIR="${SLIDES_DIR:-}"                            # folder of new slides; empty: FEATURES_DIR has their features
FEATURES_DIR="${FEATURES_DIR:-${SLIDES_DIR:+$SLIDES_DIR/features}}"   # feature files; with SLIDES_DIR, where to write them
OUTPUT="${OUTPUT:-predictions.csv}"
PATIENTS="${PATIENTS:-}"                                # CSV with the columns patient and slide; empty: by file names
GENES="${GENES:-}"                                      # case x gene table; empty: nobody has RNA
CLINICAL="${CLINICAL:-}"                                # raw clinical values; empty: nobody has any
VECTORS="${VECTORS:-}"                                  # vectors; empty: nobody has any
EXTRA_ARGS="${EXTRA_ARGS:-}"                            # more flags of python -m utils.prediction
# ----

# sbatch runs a copy of this script from elsewhere; there the folder of submission is the repository.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ -f scripts/common.sh ]] || cd "${SLURM_SUBMIT_DIR:?submit from the repository root}"
source scripts/common.sh

if [[ -z "$RUNS" || -z "$FEATURES_DIR" ]]; then
  echo "set RUNS to run folders, and FEATURES_DIR or SLIDES_DIR to the new patients" >&2
  exit 2
fi
read -r -a runs <<<"$RUNS"
read -r -a extra <<<"$EXTRA_ARGS"
if [[ -n "$SLIDES_DIR" ]]; then
  extraction="$(encoder_fact extraction)"
  read -r -a extract <<<"$extraction"
  python -m "${extract[@]}" --onco NEW --slides_dir "$SLIDES_DIR" --output_dir "$FEATURES_DIR" --device "$DEVICE"
fi
python -m utils.prediction "${runs[@]}" --features_dir "$FEATURES_DIR" --output "$OUTPUT" --device "$DEVICE" \
  ${PATIENTS:+--patients "$PATIENTS"} ${GENES:+--genomics_csv_path "$GENES"} \
  ${CLINICAL:+--clinical_location "$CLINICAL"} ${VECTORS:+--vectors_location "$VECTORS"} ${extra[@]+"${extra[@]}"}
