#!/usr/bin/env bash
# Everything to know on the day a GPU is there, in about ten minutes on one H100; the log is written as it goes.
# Usage: bash tests/gpu/accept.sh [--dry] [--log FILE] [--only numerics training speed]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec python -m tests.gpu.accept "$@"
