#!/usr/bin/env bash
#SBATCH --job-name=modaltune-extract
#SBATCH --array=0-3
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=48:00:00
#SBATCH --output=slurm-%x-%A_%a.out
#
# Whole-slide images -> patch features of the patch encoder that belongs to ENCODER.
#   bash scripts/submit_extract_patches.sh      all cohorts, one after the other
#   sbatch scripts/submit_extract_patches.sh    one cohort per array task (submit from the repository root)
# Finished slides are skipped, so an interrupted job is simply started again. What happened to every slide
# stands in extraction_report.csv beside the features.
set -euo pipefail

# ---- edit here, or set in the environment; the settings that scripts share are in scripts/settings.sh
ENCODER_CONFIG="${ENCODER_CONFIG:-}"                    # empty: the published one
BATCH_SIZE="${BATCH_SIZE:-64}"
WORKERS="${WORKERS:-auto}"                              # reading processes; auto: one per core of the job
ALLOW_FAILURES="${ALLOW_FAILURES:-0}"                   # slides of a cohort that may fail before this script does
EXTRA_ARGS="${EXTRA_ARGS:-}"                            # more flags, such as --previews --min_tissue 0.25
# ----

# sbatch runs a copy of this script from elsewhere; there the folder of submission is the repository.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ -f scripts/common.sh ]] || cd "${SLURM_SUBMIT_DIR:?submit from the repository root}"
source scripts/common.sh

pick_cohorts
read -r -a extra <<<"$EXTRA_ARGS"
extraction="$(encoder_fact extraction)"
read -r -a extract <<<"$extraction"
workers=()
[[ "$WORKERS" == auto ]] || workers=(--workers "$WORKERS")

for onco in "${cohorts[@]}"; do
  echo "== $onco ($ENCODER)"
  python -m "${extract[@]}" --onco "$onco" --batch_size "$BATCH_SIZE" --device "$DEVICE" \
    --allow_failures "$ALLOW_FAILURES" ${ENCODER_CONFIG:+--encoder_config "$ENCODER_CONFIG"} \
    ${workers[@]+"${workers[@]}"} ${extra[@]+"${extra[@]}"}
done
