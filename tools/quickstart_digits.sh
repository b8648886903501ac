#!/usr/bin/env bash
# Set up, train on long-tailed digits with cross entropy, MSE and outlying MSE on a CPU, show the scores.
#   bash tools/quickstart_digits.sh [arguments of tools/quickstart.py]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
python tools/quickstart.py --config digits "$@"
