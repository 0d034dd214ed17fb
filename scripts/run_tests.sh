#!/usr/bin/env bash
# Sets everything up on first use, checks the style and runs the tests with coverage.
#   bash scripts/run_tests.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup_env.sh

ruff check .
ruff format --check .
python -m pytest --cov --cov-report=term "$@"
