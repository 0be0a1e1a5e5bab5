#!/usr/bin/env bash
# The CPU run of the CUDA kernels, beyond what `cargo test` does: planted faults are caught, and a sample of the conformance
# table passes under address and undefined-behaviour sanitizers and in other orders of threads. Needs g++ with libasan; the
# argument is the test binary of backends/tests/cuda_on_cpu.rs.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
tests="$1"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cxx="${CXX:-g++}"
sanitizers=(-g -fsanitize=address,undefined -fno-sanitize-recover=undefined)

"$cxx" -std=c++17 -O1 -pthread -ffp-contract=off -Wno-unknown-pragmas "${sanitizers[@]}" -I "$here" -include cuda_on_cpu.h \
    -x c++ "$here/faults.cu" "$here/faults.cc" -x assembler "$here/switch.S" -o "$work/faults"
export ASAN_OPTIONS=detect_leaks=0
"$work/faults" sound_reverse || { echo "the sound kernel is reported as faulty" >&2; exit 1; }
for kernel in missing_barrier divergent_barrier two_barriers exited_lanes out_of_bounds shared_overrun; do
    if "$work/faults" "fault_$kernel" 2>"$work/report"; then
        echo "planted fault not caught: $kernel" >&2
        exit 1
    fi
    printf 'caught %-18s %s\n' "$kernel" "$(grep -m 1 -E 'ERROR|cuda_on_cpu:|wrong' "$work/report" | sed 's/ on address.*//')"
done

"$here/build.sh" "$work/sanitized" "${sanitizers[@]}"
"$here/build.sh" "$work/plain"
# The sanitizer's library comes first in the process; Rust's own code is not instrumented, only driver and kernels are.
echo "under the sanitizers, every 11th case:"
LD_PRELOAD="$("$cxx" -print-file-name=libasan.so)" LM_SAES_CUDA_STAND_IN="$work/sanitized" LM_SAES_EVERY=11 "$tests" --test-threads 1
for seed in 1 2; do
    echo "order of threads $seed, every 7th case:"
    CUDA_ON_CPU_SEED=$seed LM_SAES_CUDA_STAND_IN="$work/plain" LM_SAES_EVERY=7 "$tests"
done
