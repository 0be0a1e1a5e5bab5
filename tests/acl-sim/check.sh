#!/usr/bin/env bash
# The Ascend back end on the simulator, beyond what `cargo test` does: samples of the conformance table where nothing runs until
# waited for, in other orders of streams, with noise on computed values, with the other release's names, on other chips.
#   check.sh TEST_BINARY      (of backends/tests/ascend_on_sim)
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
tests="$1"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
"$here/build.sh" "$work/8.1" 8.1
"$here/build.sh" "$work/9.x" 9.x

sample() { # sample EVERY LAYOUT SETTINGS WHAT
    printf '%-58s ' "$4, every $1th case:"
    LM_SAES_EVERY="$1" ASCEND_HOME_PATH="$work/$2" ACL_SIM="$3" "$tests" --exact table --ignored --nocapture >"$work/log" 2>&1 ||
        { cat "$work/log"; exit 1; }
    if grep -q 'acl-sim:' "$work/log"; then
        cat "$work/log"
        exit 1
    fi
    awk '$1 == "all" { print $2 " agree" ($3 > 0 ? ", " $3 " refused" : "") }' "$work/log"
}
sample 5 8.1 "run=synced" "nothing runs until waited for"
sample 7 8.1 "run=random;seed=1" "streams take turns by seed 1"
sample 7 8.1 "run=random;seed=2" "streams take turns by seed 2"
sample 7 8.1 "run=reverse;seed=3" "the last stream first"
sample 7 8.1 "perturb=23" "noise on computed values"
sample 7 9.x "version=1.17.0;soc=Ascend910_9382" "an A3 with the names of CANN 9"
export LM_SAES_MAY_REFUSE=1
sample 7 8.1 "soc=Ascend310P3" "a 310P, which may refuse"
sample 7 8.1 "soc=Ascend910A" "a 910A, which may refuse"
