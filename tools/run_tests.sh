#!/usr/bin/env bash
# Set up, then run all tests on a CPU.
#   bash tools/run_tests.sh [arguments of pytest]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # two threads on a busy machine can be five times slower than one
python -m pytest "$@"
