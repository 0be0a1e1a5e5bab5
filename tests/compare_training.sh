#!/usr/bin/env bash
# Trains three steps of several kinds of SAE on a device, the language model's forward included, and on the CPU; the losses of
# each step must agree. The environment says where the device's driver or its stand-in is.
#   compare_training.sh BINARY DEVICE QUICKSTART_FOLDER     (what `quickstart --out` wrote)
set -euo pipefail
examples="$(cd "$(dirname "$0")/../cli/examples" && pwd)"
binary="$1" device="$2" quickstart="$3"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

run() { # run DEVICE FOLDER SETTINGS [overrides]
    local on="$1" out="$2" settings="$3"
    shift 3
    "$binary" train "$settings" --device "$on" --overwrite \
        --set initializer.grid_search_init_norm=false --set trainer.total_training_tokens=192 \
        --set trainer.lr_warm_up_steps=2 --set trainer.log_frequency=1 --set activation_factory.batch_size=64 \
        --set activation_factory.context_size=32 --set activation_factory.model_batch_size=2 \
        --set activation_factory.buffer_size=128 --set "model.model_from_pretrained_path=$quickstart/model" \
        --set "datasets.prose.dataset_name_or_path=$quickstart/text/train.jsonl" \
        --set "trainer.exp_result_path=$out" "$@" >"$out.log" 2>&1 || { cat "$out.log" >&2; return 1; }
}
compare() { # compare NAME SETTINGS [overrides]
    local name="$1" settings="$2"
    shift 2
    run cpu "$work/$name-cpu" "$settings" "$@"
    run "$device" "$work/$name-device" "$settings" "$@"
    python3 - "$name" "$device" "$work/$name-cpu/metrics.jsonl" "$work/$name-device/metrics.jsonl" <<'PY'
import json, sys
name, device, *paths = sys.argv[1:]
cpu, other = ([json.loads(l)["losses/overall_loss"] for l in open(p)] for p in paths)
assert len(cpu) == len(other) == 3, (len(cpu), len(other))
worst = max(abs(a - b) / abs(a) for a, b in zip(cpu, other))
assert worst < 1e-5, f"{name}: losses {cpu} on the CPU, {other} on {device}"
print(f"{name:<12} three steps agree to {worst:.1e}")
PY
}
compare topk "$quickstart/train.toml" --set sae.expansion_factor=4 --set trainer.k_aux=16
compare batchtopk "$quickstart/train.toml" --set sae.expansion_factor=4 --set trainer.k_aux=16 --set sae.act_fn=batchtopk
compare jumprelu "$examples/quickstart_jumprelu_target_l0.toml" --set sae.expansion_factor=4
compare gated "$examples/quickstart_gated.toml" --set sae.expansion_factor=4 --set trainer.l1_coefficient_warmup_steps=0
compare matryoshka "$examples/quickstart_matryoshka.toml"
compare skip "$examples/quickstart_skip_transcoder.toml" --set sae.expansion_factor=4
