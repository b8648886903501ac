#!/usr/bin/env bash
# Train on several GPUs of one machine, or in several CPU processes where there is none.
#   tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
set -euo pipefail
CONFIG=$1
GPUS=$2
python -c "import yapf" # its first import ever writes a cache; two processes at once break each other
torchrun --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" --nproc_per_node="$GPUS" \
    "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "${@:3}"
