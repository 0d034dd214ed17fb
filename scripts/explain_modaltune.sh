#!/usr/bin/env bash
#SBATCH --job-name=modaltune-explain
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --mem=32G
#SBATCH --time=12:00:00
#SBATCH --output=slurm-%x-%j.out
#
# Explains the test patients of trained runs: maps on the slides, pathways, modalities, and a report in HTML below each
# run folder. Started again, it explains only the patients who are missing.
#   bash scripts/explain_modaltune.sh      or      sbatch scripts/explain_modaltune.sh
#   COHORTS=BRCA LIMIT=5 bash scripts/explain_modaltune.sh
set -euo pipefail

# ---- edit here, or set in the environment; the settings that scripts share are in scripts/settings.sh
TARGETS="${TARGETS:-class risk}"                        # class:K, probability:K, zero_shot:K, zero_shot:risk
SPLIT="${SPLIT:-test}"                                  # whose patients
PATIENTS="${PATIENTS:-}"                                # barcodes; empty: all
LIMIT="${LIMIT:-}"                                      # at most so many; empty: all
STEPS="${STEPS:-20}"                                    # of integrated gradients, doubled where needed
EXTRA_ARGS="${EXTRA_ARGS-}"
# ----

# sbatch runs a copy of this script from elsewhere; there the folder of submission is the repository.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ -f scripts/common.sh ]] || cd "${SLURM_SUBMIT_DIR:?submit from the repository root}"
source scripts/common.sh

pick_cohorts
read -r -a targets <<<"$TARGETS"
read -r -a patients <<<"$PATIENTS"
read -r -a extra <<<"$EXTRA_ARGS"
flags=(--targets "${targets[@]}" --split "$SPLIT" --steps "$STEPS" --device "$DEVICE")
[[ -n "$LIMIT" ]] && flags+=(--limit "$LIMIT")
[[ ${#patients[@]} -gt 0 ]] && flags+=(--patients "${patients[@]}")

root="$(run_root)"
for onco in "${cohorts[@]}"; do
  echo "== $onco"
  python -m utils.explain "$root/$onco" "${flags[@]}" ${extra[@]+"${extra[@]}"}
done
