#!/usr/bin/env bash
# Training steps on the stand-in driver against the CPU: see compare_training.sh.
#   train.sh BINARY STAND_IN_FOLDER QUICKSTART_FOLDER     (the command built with --features cuda; what `quickstart --out` wrote)
set -euo pipefail
LD_LIBRARY_PATH="$2" "$(dirname "$0")/../compare_training.sh" "$1" cuda:0 "$3"
