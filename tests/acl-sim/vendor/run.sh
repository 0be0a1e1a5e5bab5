#!/usr/bin/env bash
# Opt-in: the vendor's own client, PyPI's torch and torch-npu unmodified, runs tensor work on the simulator and agrees with
# the CPU. Some 3 GB of packages; Python 3.8 to 3.11.
#   run.sh PYTHON        (one that has torch==2.1.0 and torch-npu==2.1.0.post12)
# Settings as everywhere in ACL_SIM.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
python="$1"
if ! site="$("$python" -c 'import importlib.util as u, os; print(os.path.dirname(u.find_spec("torch_npu").origin))' 2>/dev/null)"; then
    echo "SKIPPED: $python has no torch_npu"
    exit 77
fi
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
"$here/../build.sh" "$work"
lib="$work/lib64"
# The client looks up names in the library's handle, which also finds those of the libraries it depends on.
"${CC:-cc}" -w -shared -fPIC -fno-builtin "$here/stubs.c" -o "$lib/libvendor_stubs.so" -Wl,--no-as-needed -L"$lib" -l:libacl_sim.so
for name in libascendcl libhccl libacl_op_compiler libge_runner libgraph libacl_tdt_channel; do
    ln -sf libvendor_stubs.so "$lib/$name.so"
done
mkdir -p "$work/runtime" "$work/compiler" "$work/opp"
export ASCEND_HOME_PATH="$work" ASCEND_OPP_PATH="$work/opp" ASCEND_AICPU_PATH="$work"
export LD_LIBRARY_PATH="$lib:$site/lib"
export ACL_SIM="leaks=allowed;${ACL_SIM:-}"
for queue in 0 1; do
    echo "phase 2 on $([ "$queue" = 0 ] && echo "the thread of phase 1" || echo "a thread of its own"):"
    TASK_QUEUE_ENABLE="$queue" "$python" "$here/script.py"
done
