#!/usr/bin/env bash
# Builds the stand-in driver, DIRECTORY/libcuda.so.1, from kernels/cuda/*.cu and this folder, DIRECTORY/blas/libcublasLt.so.13 and
# DIRECTORY/nccl/libnccl.so.2; needs g++ 12 or newer and x86-64.
#   build.sh DIRECTORY [more compiler flags, such as -fsanitize=address,undefined]
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
kernels="$here/../../kernels/cuda"
out="$1"
shift
mkdir -p "$out/blas" "$out/nccl"
flags=(-std=c++17 -O2 -fPIC -ffp-contract=off -fvisibility=hidden -pthread -Wall -Wno-unknown-pragmas "$@")
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
objects=()
for source in "$kernels"/*.cu "$here/driver.cc"; do
    object="$work/$(basename "$source").o"
    printf '%s\0' "$source" "$object"
    objects+=("$object")
done | xargs -0 -n 2 -P 2 sh -c 'exec '"${CXX:-g++}"' '"${flags[*]}"' -c -x c++ -I "'"$here"'" -include cuda_on_cpu.h "$1" -o "$2"' sh
"${CXX:-g++}" "${flags[@]}" -shared -Wl,-soname,libcuda.so.1 "$work"/*.o "$here/switch.S" -o "$work/libcuda.so.1"
mv "$work/libcuda.so.1" "$out/libcuda.so.1"
"${CXX:-g++}" "${flags[@]}" -shared -Wl,-soname,libcublasLt.so.13 "$here/blas.cc" "$out/libcuda.so.1" -o "$work/blas"
mv "$work/blas" "$out/blas/libcublasLt.so.13"
"${CXX:-g++}" "${flags[@]}" -shared -Wl,-soname,libnccl.so.2 "$here/nccl.cc" "$out/libcuda.so.1" -o "$work/nccl"
mv "$work/nccl" "$out/nccl/libnccl.so.2"
