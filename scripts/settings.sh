#!/usr/bin/env bash
# Settings that the submit scripts share; common.sh reads them. Edit here for all scripts, or set in the environment for
# one call. What stands at the top of a script wins over this file.
set -euo pipefail

: "${COHORTS:=BRCA GBMLGG NSCLC RCC}"                   # as many as the --array of a script
: "${ENCODER:=gigapath}"                                # python -m models.encoders lists all
: "${PROTOCOL:=published}"                              # published | strict
: "${DEVICE:=auto}"                                     # auto | cpu | cuda | index of a GPU
: "${RNA:=1}"                                           # 0: the cohorts have no expression

# ---- the model
: "${TYPE:=gene}"                                       # gene | gene_clinical | gene_vectors | gene_clinical_vectors
: "${MISSING:=drop}"                                    # drop | learned: patients who lack a modality
: "${MODALITY_DROPOUT:=0}"                              # with learned: hides modalities in training
: "${BALANCED:=0}"                                      # 1: every modality learns (docs/modality_balance.md)
: "${MODEL_CONFIG:=}"                                   # empty: the published one of the encoder, with BALANCED=1 the balanced

# ---- its training
: "${SEED:=0}"
: "${NUM_SEEDS:=3}"                                     # SEED, SEED + 1, ...
: "${NUM_EPOCHS:=30}"
: "${LR:=$([[ "$BALANCED" == 1 ]] && echo 3e-4 || echo 1e-4)}"
: "${WORKERS:=4}"                                       # processes that read features
: "${RUN_NAME:=}"                                       # folder below OUTPUT_ROOT; empty: after ENCODER, TYPE, MISSING
: "${DOCTOR:=1}"                                        # 1: check all files first, stop at errors; 0: do not
EXTRA_ARGS="${EXTRA_ARGS---use_amp}"                    # more flags of the Python command; may be empty
