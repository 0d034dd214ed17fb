#!/usr/bin/env bash
# Sourced from the repository root by the scripts that have an ENCODER; puts the environment on PATH, too. What its
# functions read in capitals are settings: of the script, of scripts/settings.sh.
set -euo pipefail
source scripts/settings.sh

# encoder_fact FACT: prints what models/encoders.py knows of ENCODER; a misspelt ENCODER ends the script.
encoder_fact() {
  "${MODALTUNE_PYTHON:-python3}" -m models.encoders "$ENCODER" "$@" || exit 2
}

# Prints the --mil_name of ENCODER with the modalities of TYPE.
mil_name() {
  local prefix
  prefix="$(encoder_fact prefix)" && echo "${prefix}_${TYPE}_adapter"
}

# run_root [SUFFIX]: prints the folder RUN_NAME below OUTPUT_ROOT (utils/constants.py); every cohort has its own in
# it. An empty RUN_NAME stands for modaltune_ENCODER_TYPE_MISSING and the suffix, without a MISSING of drop.
run_root() {
  local root name="modaltune_${ENCODER}_${TYPE}_$MISSING"
  root="$(python -c 'from utils.constants import OUTPUT_ROOT; print(OUTPUT_ROOT)')" &&
    echo "$root/${RUN_NAME:-${name%_drop}${1:-}}"
}

# Sets the array cohorts: those of COHORTS, in a SLURM array the one of this task. A task beyond them ends here.
pick_cohorts() {
  read -r -a cohorts <<<"$COHORTS"
  if [[ -n "${SLURM_ARRAY_TASK_ID:-}" ]]; then
    if ((SLURM_ARRAY_TASK_ID >= ${#cohorts[@]})); then
      echo "array task $SLURM_ARRAY_TASK_ID: only ${#cohorts[@]} cohorts, nothing to do"
      exit 0
    fi
    cohorts=("${cohorts[$SLURM_ARRAY_TASK_ID]}")
  fi
}

# Sets the array training_flags: what every training passes on. EXTRA_ARGS end it; they win over flags before them.
set_training_flags() {
  local extra
  read -r -a extra <<<"$EXTRA_ARGS"
  training_flags=(--mil_name "$(mil_name)" --model_config "${MODEL_CONFIG:-$(encoder_fact "$([[ "${BALANCED:-0}" == 1 ]] && echo balanced_config || echo config)")}" --protocol "$PROTOCOL"
    --missing_modalities "$MISSING" --modality_dropout "$MODALITY_DROPOUT"
    --seed "$SEED" --num_seeds "$NUM_SEEDS" --num_epochs "$NUM_EPOCHS" --lr "$LR"
    --workers "$WORKERS" --device "$DEVICE" ${extra[@]+"${extra[@]}"})
}

# check_files FLAGS: with DOCTOR=1, checks every file that a run with these flags reads; errors end the script.
check_files() {
  if [[ "$DOCTOR" == 1 ]]; then
    python -m utils.doctor "$@"
  fi
}

encoder_fact >/dev/null # a misspelt ENCODER stops here, not after minutes of installing
source scripts/setup_env.sh
