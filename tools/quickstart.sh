#!/usr/bin/env bash
# Set up, draw toy road scenes, train with cross entropy and with outlying MSE on a CPU, show both.
#   bash tools/quickstart.sh [arguments of tools/quickstart.py]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
python tools/quickstart.py --config toy "$@"
