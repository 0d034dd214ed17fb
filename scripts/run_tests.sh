#!/usr/bin/env bash
# Sets everything up on first use, checks the style and runs the tests with coverage.
#   bash scripts/run_tests.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup_env.sh

ruff check .
ruff format --check .
# A process per core takes one file after the other, the slow ones first (tests/conftest.py). The models of the
# tests are too small for threads.
export OMP_NUM_THREADS=1
python -m pytest -n "${TEST_WORKERS:-2}" --dist loadfile --no-loadscope-reorder --cov --cov-report=term "$@"
