#!/usr/bin/env bash
# The submit scripts under a real SLURM: an array and a two-process job run into their time limit, save on SIGUSR1,
# requeue themselves, continue, and end with the numbers of runs that were never interrupted. About 5 minutes.
#   bash tests/soak/slurm_smoke.sh        needs root, slurm-wlm and munge; starts a cluster of its own on loopback
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source scripts/setup_env.sh
source tests/soak/slurm_cluster.sh

WORK="$(mktemp -d)"
chmod 755 "$WORK"
CLUSTER="$WORK/cluster"
trap 'stop_cluster; rm -rf "$WORK"' EXIT
trap 'exit 143' TERM INT

python - "$WORK/cohort" <<'EOF'
import sys
from pathlib import Path

from tests.small_cohort import make_small_cohort

make_small_cohort(Path(sys.argv[1]), train=16)
EOF
cohort="$WORK/cohort"
export OMP_NUM_THREADS=1 MODALTUNE_SKIP_SETUP=1 MODALTUNE_OUTPUT_ROOT="$WORK/runs"
export COHORTS="BRCA BLCA" MODEL_CONFIG="$cohort/model.json" NUM_SEEDS=1 NUM_EPOCHS="${NUM_EPOCHS:-30}" WORKERS=0
export DEVICE=cpu DOCTOR=0
export EXTRA_ARGS="--random_backbone --num_tasks 1 --eval_interval 15 --pathway_table $cohort/pathways.csv \
  --genomics_csv_path $cohort/genes.csv --text_location $cohort/texts.pt --train_json $cohort/train.json \
  --val_json $cohort/val.json --test_json $cohort/test.json"

start_cluster
# SLURM counts in minutes and may signal up to one earlier than asked: here after 0 to 30 seconds.
short="--time=2 --signal=B:USR1@90 --gres=none --cpus-per-task=1 --mem=0 --output=$WORK/%x-%a.log"
# shellcheck disable=SC2086
RUN_NAME=single sbatch --job-name=single --array=0-1 $short scripts/submit_modaltune.sh
# shellcheck disable=SC2086
RUN_NAME=ddp sbatch --job-name=ddp --array=0 --ntasks-per-node=2 $short scripts/submit_modaltune_ddp.sh

for _ in $(seq 180); do
  [[ -n "$(squeue --noheader)" ]] || break
  sleep 5
done
squeue
tail -n 40 "$WORK"/*.log
for log in single-0 single-1 ddp-0; do
  grep -q "interrupted by a signal" "$WORK/$log.log" || { echo "$log was not interrupted" >&2; exit 1; }
  grep -q "continuing .* after" "$WORK/$log.log" || { echo "$log did not continue" >&2; exit 1; }
done

echo "== the same without interruption"
COHORTS=BRCA RUN_NAME=whole bash scripts/submit_modaltune.sh
COHORTS=BRCA RUN_NAME=whole_ddp PROCESSES=2 bash scripts/submit_modaltune_ddp.sh
python - "$WORK/runs" <<'EOF'
import sys
from pathlib import Path

from tests.soak.kill_resume import assert_same_run

runs = Path(sys.argv[1])
for name, whole in (("single/BRCA", "whole"), ("single/BLCA", "whole"), ("ddp/BRCA", "whole_ddp")):
    assert_same_run(runs / whole / "BRCA", runs / name, fingerprint=False)
EOF
echo "interrupted, requeued and continued jobs equal the uninterrupted ones"
