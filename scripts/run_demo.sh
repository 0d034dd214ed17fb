#!/usr/bin/env bash
# The whole pipeline on a generated cohort, on the CPU: raw slides, expression and clinical tables ->
# features -> splits and texts -> trained ModalTune -> metrics, and the same model on a cohort it has
# never seen. Sets everything up on first use; started again, it does only what is missing.
#
#   bash scripts/run_demo.sh
#   ENCODER=titan bash scripts/run_demo.sh              TITAN instead of GigaPath, in the same folder
#   ENCODER=gigapath_flash bash scripts/run_demo.sh     GigaPath-Flash instead, in the same folder
#   PANCANCER=1 bash scripts/run_demo.sh                one model over four cancer sites, in the same folder
#   TYPE=gene_clinical bash scripts/run_demo.sh         with clinical features
#   MISSING=learned bash scripts/run_demo.sh            patients without RNA train, too
#   EXPLAIN=1 bash scripts/run_demo.sh                  and a report that explains the test patients
#   BASELINES=1 bash scripts/run_demo.sh                and three baselines on the same patients, in one table;
#                                                       tissue and genes show a part of the signal each (SPLIT=1)
#   DEMO_ROOT=/scratch/demo SEED=1 NUM_EPOCHS=10 bash scripts/run_demo.sh
set -euo pipefail

# ---- edit here, or set in the environment
ENCODER="${ENCODER:-gigapath}"                          # python -m models.encoders lists all
PANCANCER="${PANCANCER:-0}"                             # 1: train on four sites instead of BRCA
SEED="${SEED:-0}"
NUM_SEEDS="${NUM_SEEDS:-1}"
NUM_EPOCHS="${NUM_EPOCHS:-$([[ "$PANCANCER" == 1 ]] && echo 10 || echo 15)}"
LR="${LR:-1e-3}"                                         # small models bear a higher rate than the published 1e-4
SCALE="${SCALE:-1}"                                     # factor on the number of patients
TYPE="${TYPE:-gene}"                                    # gene | gene_clinical
MISSING="${MISSING:-drop}"                              # drop | learned: patients who lack a modality
MODALITY_DROPOUT="${MODALITY_DROPOUT:-0}"               # with learned: hides modalities in training
BASELINES="${BASELINES:-0}"                             # 1: train baselines, too, and compare (one cohort only)
BALANCED="${BALANCED:-$BASELINES}"                      # 1: every modality learns (docs/modality_balance.md)
PROTOCOL="${PROTOCOL:-published}"                       # published | strict
SPLIT="${SPLIT:-$BASELINES}"                            # 1: a cohort that needs tissue and genes, in a folder of its own
EXPLAIN="${EXPLAIN:-0}"                                 # 1: explain the test patients (one cohort only)
EXTRA_ARGS="${EXTRA_ARGS:-}"                            # more flags of the training
# ----

if [[ "$PANCANCER" == 1 ]]; then
  trained_on=PANCANCER sites=(BRCA GBMLGG NSCLC RCC) submit=submit_modaltune_pancancer.sh
else
  trained_on=BRCA sites=(BRCA) submit=submit_modaltune.sh
fi

REPO="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$REPO"
source scripts/common.sh
patch_config="$(encoder_fact demo_tile_config)"

signal=() folder=demo_data
[[ "$SPLIT" != 1 ]] || signal=(--split) folder=demo_data_split
DEMO_ROOT="${DEMO_ROOT:-$REPO/$folder}"
export MODALTUNE_DATA_ROOT="$DEMO_ROOT/data"
export MODALTUNE_WEIGHTS_ROOT="$DEMO_ROOT/weights"
export MODALTUNE_PATHWAY_TABLE="$DEMO_ROOT/pathways.csv"
export MODALTUNE_SPLITS_ROOT="$DEMO_ROOT/splits"
export MODALTUNE_OUTPUT_ROOT="$DEMO_ROOT/runs"
export ENCODER SEED NUM_SEEDS NUM_EPOCHS LR TYPE MISSING MODALITY_DROPOUT PROTOCOL DEVICE=cpu
export WORKERS=0
# The demo's models are so small that threads wait for each other longer than they work.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

started=$SECONDS
step() { echo; echo "=== [$((SECONDS - started)) s] $*"; }

step "1/5 generate raw slides, tables and small checkpoints"
python -m data_utils.make_demo_cohort --root "$DEMO_ROOT" --seed 0 --scale "$SCALE" \
  --cohorts "${sites[@]}" BLCA ${signal[@]+"${signal[@]}"}

step "2/5 extract patch features (one slide is corrupt on purpose)"
COHORTS="${sites[*]} BLCA" ENCODER_CONFIG="$patch_config" ALLOW_FAILURES=1 \
  BATCH_SIZE=64 WORKERS=1 EXTRA_ARGS="" bash scripts/submit_extract_patches.sh

step "3/5 gene tables, splits, clinical features and label sentences"
COHORTS="${sites[*]} BLCA" CONCH_CONFIG=model_configs/demo_conch_text.json bash scripts/submit_get_dataset.sh

step "4/5 train on ${sites[*]} and evaluate"
COHORTS=BRCA SITES="${sites[*]}" MODEL_CONFIG="$(encoder_fact "$([[ "$BALANCED" == 1 ]] && echo demo_balanced_config || echo demo_config)")" \
  EXTRA_ARGS="--cache_features ram $EXTRA_ARGS" bash "scripts/$submit"

step "5/5 apply to BLCA, which the model has never seen"
TRAINED_ON="$trained_on" COHORTS=BLCA EXTRA_ARGS="" bash scripts/deploy_OOD_modaltune.sh

run="$(run_root)/$trained_on"
if [[ "$EXPLAIN" == 1 ]]; then
  [[ "$PANCANCER" == 1 ]] && run="$run/ood_BLCA" # sites of a pan-cancer model have probes of their own
  step "explain the test patients"
  python -m utils.explain "$run" --device cpu
  run="$(run_root)/$trained_on"
fi
if [[ "$BASELINES" == 1 && "$PANCANCER" != 1 ]]; then
  step "train baselines on the same patients and compare"
  COHORTS=BRCA MODELS="abmil snn survpath" CONFIG_DIR=model_configs/demo_baselines RUN_NAME=baselines RECIPE=ours \
    OBJECTIVE=multitask COMPARE_WITH="$run" EXTRA_ARGS="" bash scripts/submit_baselines.sh
fi
step "done"
cat "$run/results.md" "$run/ood_BLCA/results.md"
echo
echo "Tables, figures, embeddings and checkpoints: $run"
