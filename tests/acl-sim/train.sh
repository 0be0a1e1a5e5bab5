#!/usr/bin/env bash
# Training steps on the simulated NPU against the CPU: see compare_training.sh.
#   train.sh BINARY SIMULATOR_FOLDER QUICKSTART_FOLDER     (the command built with --features ascend; what `quickstart --out` wrote)
set -euo pipefail
ASCEND_HOME_PATH="$2" "$(dirname "$0")/../compare_training.sh" "$1" npu:0 "$3"
