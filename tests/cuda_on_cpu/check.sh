#!/usr/bin/env bash
# The CPU run of the CUDA kernels: planted faults are caught, and the conformance table passes under address and
# undefined-behaviour sanitizers and several orders of threads. Needs g++ with libasan and the command built with --features
# cuda (its path is the argument).
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
binary="$1"
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
LD_PRELOAD="$("$cxx" -print-file-name=libasan.so)" LD_LIBRARY_PATH="$work/sanitized" \
    "$binary" devices --conformance cuda:0 | tail -n 1
for seed in 1 2; do
    echo "order of threads $seed:"
    CUDA_ON_CPU_SEED=$seed LD_LIBRARY_PATH="$work/plain" "$binary" devices --conformance cuda:0 | tail -n 1
done
