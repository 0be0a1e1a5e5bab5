#!/usr/bin/env bash
# Trains three steps of every kind of dictionary on a device, the language model's forward included, and on the CPU; the losses of
# each step must agree. The environment says where the device's driver or its stand-in is.
#   compare_training.sh BINARY DEVICE QUICKSTART_FOLDER     (what `quickstart --out` wrote)
set -euo pipefail
examples="$(cd "$(dirname "$0")/../cli/examples" && pwd)"
binary="$1" device="$2" quickstart="$3"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# Batches of 64 tokens, shuffled over two.
batch=(--set activation_factory.batch_size=64 --set activation_factory.buffer_size=128)
run() { # run DEVICE FOLDER SETTINGS [overrides]
    local on="$1" out="$2" settings="$3"
    shift 3
    "$binary" train "$settings" --device "$on" --overwrite \
        --set initializer.grid_search_init_norm=false --set trainer.total_training_tokens=192 \
        --set trainer.lr_warm_up_steps=2 --set trainer.log_frequency=1 --set activation_factory.context_size=32 \
        --set activation_factory.model_batch_size=2 "${batch[@]}" --set "model.model_from_pretrained_path=$quickstart/model" \
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

# The other variants on layers of the same model. The first lines of a file are its dictionary and hook points.
settings() { # settings NAME HOOK_POINTS TARGET < [sae], [initializer] and [trainer]
    {
        printf 'sae_name = "%s"\nsae_series = "stand-in"\nmodel_name = "quickstart-lm"\n' "$1"
        cat
        printf 'lr = 1e-3\nn_checkpoints = 0\n[model]\n[datasets.prose]\n[activation_factory]\ntarget = "%s"\n' "$3"
        printf 'hook_points = %s\n[[activation_factory.sources]]\ntype = "dataset"\nname = "prose"\n' "$2"
    } >"$work/$1.toml"
}
layers='["blocks.0.hook_resid_post", "blocks.1.hook_resid_post", "blocks.3.hook_resid_post"]'
settings crosscoder "$layers" activations-1d <<TOML
[sae]
sae_type = "crosscoder"
hook_points = $layers
d_model = 128
expansion_factor = 4
act_fn = "jumprelu"
[initializer]
init_log_jumprelu_threshold_value = -2.302585
[trainer]
sparsity_loss_type = "tanh"
l1_coefficient = 0.3
TOML
mlp='"blocks.0.ln2.hook_normalized", "blocks.1.ln2.hook_normalized", "blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"'
settings clt "[$mlp]" activations-1d <<TOML
[sae]
sae_type = "clt"
hook_points_in = ["blocks.0.ln2.hook_normalized", "blocks.1.ln2.hook_normalized"]
hook_points_out = ["blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"]
d_model = 128
expansion_factor = 4
act_fn = "layertopk"
top_k = 16
[initializer]
init_encoder_with_decoder_transpose = false
[trainer]
TOML
attention='["blocks.1.ln1.hook_normalized", "blocks.1.hook_attn_out"]'
settings lorsa "$attention" activations-2d <<TOML
[sae]
sae_type = "lorsa"
hook_point_in = "blocks.1.ln1.hook_normalized"
hook_point_out = "blocks.1.hook_attn_out"
d_model = 128
expansion_factor = 2
act_fn = "topk"
top_k = 16
n_qk_heads = 8
d_qk_head = 32
n_ctx = 32
rotary_dim = 8
rotary_base = 10000
rotary_adjacent_pairs = false
[initializer]
init_encoder_with_decoder_transpose = false
initialize_lorsa_with_mhsa = true
model_layer = 1
[trainer]
TOML
transforms='["blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out"]'
settings molt "$transforms" activations-1d <<TOML
[sae]
sae_type = "molt"
hook_point_in = "blocks.1.ln2.hook_normalized"
hook_point_out = "blocks.1.hook_mlp_out"
d_model = 128
expansion_factor = 0.1875
rank_counts = { "64" = 8, "16" = 16 }
act_fn = "topk"
top_k = 6
[initializer]
init_encoder_with_decoder_transpose = false
[trainer]
TOML
compare crosscoder "$work/crosscoder.toml"
compare clt "$work/clt.toml"
compare molt "$work/molt.toml"
# Two contexts of 32 tokens.
batch=(--set activation_factory.batch_size=2)
compare lorsa "$work/lorsa.toml"
