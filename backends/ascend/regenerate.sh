#!/usr/bin/env bash
# Writes backends/src/ascend/sys.rs from acl.h with bindgen. With --check nothing is written: it fails when the committed
# bindings are not what the header gives, and exits with 77 when bindgen or libclang cannot be had.
#
# Where ASCEND_HOME_PATH names an installation of CANN, the header is compared with the installed ones afterwards, and so are all
# types, values and layouts that the bindings have from it (tests/acl-sim/abi_check.py).
#
# bindgen is taken from BINDGEN, or installed by cargo into the cache; libclang from LIBCLANG_PATH, or from the PyPI wheel
# libclang into the cache. Both have a fixed version, so that everybody generates the same text.
set -euo pipefail
cd "$(dirname "$0")"
version=0.72.1
clang=18.1.1
cache="${XDG_CACHE_HOME:-$HOME/.cache}/lm-saes-ci"
out=../src/ascend/sys.rs
check=false
[ "${1:-}" != --check ] || check=true
cannot() {
    echo "cannot generate the Ascend bindings: $*" >&2
    exit 77
}

bindgen="${BINDGEN:-$cache/bindgen-$version/bin/bindgen}"
if [ ! -x "$bindgen" ]; then
    [ -z "${BINDGEN:-}" ] || cannot "BINDGEN is $BINDGEN, which is no program"
    cargo install bindgen-cli --version "$version" --locked --quiet --root "$cache/bindgen-$version" ||
        cannot "cargo could not install bindgen-cli $version"
fi
"$bindgen" --version | grep -qx "bindgen $version" || cannot "$bindgen is not version $version"

if [ -z "${LIBCLANG_PATH:-}" ]; then
    LIBCLANG_PATH="$cache/libclang-$clang/clang/native"
    if [ ! -e "$LIBCLANG_PATH/libclang.so" ]; then
        python3 -m pip install -q --no-deps --target "$cache/libclang-$clang" "libclang==$clang" ||
            cannot "pip could not install libclang $clang"
    fi
fi
export LIBCLANG_PATH
# The wheel has no headers of its own; the compiler's are as good.
include="$("${CC:-cc}" -print-file-name=include)" || cannot "there is no C compiler"

text="$(mktemp)"
trap 'rm -f "$text"' EXIT
"$bindgen" acl.h --dynamic-loading Functions --default-enum-style newtype --constified-enum '_bindgen_ty_.*' --no-prepend-enum-name \
    --default-macro-constant-type signed \
    --allowlist-function '(acl|Hccl).*' --allowlist-type '(acl|Hccl).*' --allowlist-var '(ACL|HCCL).*' \
    --no-doc-comments --wrap-unsafe-ops --rust-target 1.82 --formatter rustfmt \
    --rustfmt-configuration-file "$PWD/../../rustfmt.toml" --disable-header-comment \
    --raw-line '//! Bindings to CANN, written by backends/ascend/regenerate.sh from backends/ascend/acl.h: change those.' \
    -o "$text" -- -x c -std=c11 -isystem "$include"
# bindgen knows the bounds of libloading 0.8; 0.9 has its own.
sed -i 's/P: AsRef<::std::ffi::OsStr>,/P: ::libloading::AsFilename,/' "$text"
if ! $check; then
    cp "$text" "$out"
elif ! diff -u "$out" "$text"; then
    echo "backends/src/ascend/sys.rs is not what backends/ascend/acl.h gives: run backends/ascend/regenerate.sh" >&2
    exit 1
fi
if [ -n "${ASCEND_HOME_PATH:-}" ] && [ -e "$ASCEND_HOME_PATH/include/acl/acl.h" ]; then
    ../../tests/acl-sim/abi_check.py "$ASCEND_HOME_PATH"
fi
