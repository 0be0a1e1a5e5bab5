#!/usr/bin/env bash
# Builds the simulator and lays it out as an installation of CANN: DIRECTORY/lib64 holds it under the libraries' names, so
# ASCEND_HOME_PATH=DIRECTORY (or LD_LIBRARY_PATH=DIRECTORY/lib64) runs a client on it.
#   build.sh DIRECTORY [8.1|9.x]      (which release's set of names; both have all symbols)
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
mkdir -p "$1/lib64"
out="$(cd "$1/lib64" && pwd)"
case "${2:-8.1}" in
    8.1) names=(libascendcl libnnopbase libopapi libhccl) ;;
    9.x) names=(libacl_rt libnnopbase libopapi_math libopapi_nn libopapi_transformer libhccl libhcomm) ;;
    *) echo "unknown release: $2" >&2; exit 2 ;;
esac
library="$(cd "$here" && "${CARGO:-cargo}" build --release -p lm-saes-acl-sim --message-format=json 2>"$out/build.log" |
    python3 -c 'import json, sys; print([f for m in map(json.loads, sys.stdin) if m.get("target", {}).get("name") == "acl_sim" for f in m["filenames"] if f.endswith(".so")][-1])')" ||
    { cat "$out/build.log" >&2; exit 1; }
rm -f "$out/build.log"
cp "$library" "$out/libacl_sim.so.tmp"
mv "$out/libacl_sim.so.tmp" "$out/libacl_sim.so"
for name in "${names[@]}"; do
    ln -sf libacl_sim.so "$out/$name.so"
done
