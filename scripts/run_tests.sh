#!/usr/bin/env bash
# Sets everything up on first use, then checks style, types and imports and runs the tests.
#   bash scripts/run_tests.sh [pytest arguments]
#   bash scripts/run_tests.sh --quick [pytest arguments]      without the slow tests, minutes
#   bash scripts/run_tests.sh --coverage [pytest arguments]   and say which lines no test ran; a quarter slower
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export MODALTUNE_REQUIREMENTS="requirements.txt docs/requirements.txt"
source scripts/setup_env.sh

options=()
case "${1:-}" in
  --quick) options=(-m "not slow") ;;
  --coverage) options=(--cov --cov-report=term-missing:skip-covered) ;;
esac
[[ ! -v options[0] ]] || shift

ruff check .
ruff format --check .
mypy
lint-imports --no-cache
# A process per core takes one file after the other, the slow ones first (tests/conftest.py). The models of the
# tests are too small for threads.
export OMP_NUM_THREADS=1
python -m pytest -n "${TEST_WORKERS:-2}" --dist loadfile --no-loadscope-reorder ${options[@]+"${options[@]}"} "$@"
