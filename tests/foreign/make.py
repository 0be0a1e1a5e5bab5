"""Writes the small dictionaries in this folder with the libraries whose formats they have (NumPy, PyTorch, safetensors), and what
PyTorch computes with them by the formulas of the tools: x, feature_acts and reconstructed in expected.safetensors.

    python make.py        # needs torch, numpy, safetensors, pyyaml
"""

import json
import pathlib
import shutil

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
D, F, B = 6, 10, 7
torch.manual_seed(20)


def rand(*shape):
    return torch.randn(*shape) * 0.7


def case(path):
    folder = HERE / path
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def expect(folder, x, acts, out):
    save_file(
        {"x": x.contiguous(), "feature_acts": acts.contiguous(), "reconstructed": out.contiguous()},
        folder / "expected.safetensors",
    )


def jump(pre, theta):
    return torch.relu(pre) * (pre > theta)


def topk(pre, k):
    values, idx = torch.topk(torch.relu(pre), k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, idx, values)


W_enc, W_dec, b_enc, b_dec = rand(D, F), rand(F, D), rand(F), rand(D)
theta = torch.rand(F) * 0.5
x = rand(B, D) * 2

# Gemma Scope 1: residual, embedding (compressed, lower-case names), transcoder.
f = case("google/gemma-scope-2b-pt-res/layer_3/width_16k/average_l0_5")
np.savez(f / "params.npz", W_enc=W_enc.numpy(), W_dec=W_dec.numpy(), b_enc=b_enc.numpy(), b_dec=b_dec.numpy(), threshold=theta.numpy())
acts = jump(x @ W_enc + b_enc, theta)
expect(f, x, acts, acts @ W_dec + b_dec)
f = case("google/gemma-scope-9b-pt-res/embedding/width_4k/average_l0_6")
np.savez_compressed(f / "params.npz", w_enc=W_enc.numpy(), w_dec=W_dec.numpy(), b_enc=b_enc.numpy(), b_dec=b_dec.numpy(), threshold=theta.numpy())
acts = jump(x @ (W_enc / D**0.5) + b_enc, theta)
expect(f, x, acts, acts @ (W_dec * D**0.5) + b_dec)

# Gemma Scope 2: an affine transcoder; a cross-layer transcoder of three layers.
skip = rand(D, D)
f = case("google/gemma-scope-2-1b-pt/transcoder/layer_7_width_16k_l0_small_affine")
tensors = {"w_enc": W_enc, "w_dec": W_dec, "b_enc": b_enc, "b_dec": b_dec, "threshold": theta}
save_file({**tensors, "affine_skip_connection": skip}, f / "params.safetensors")
(f / "config.json").write_text(json.dumps({"architecture": "jump_relu", "model_name": "gemma-v3-1b-pt", "affine_connection": True}))
acts = jump(x @ W_enc + b_enc, theta)
expect(f, x, acts, acts @ W_dec + b_dec + x @ skip)

# Llama Scope, first version.
f = case("fnlp/Llama3_1-8B-Base-L15R-8x")
(f / "checkpoints").mkdir()
save_file(
    {"encoder.weight": W_enc.T.contiguous(), "encoder.bias": b_enc, "decoder.weight": W_dec.T.contiguous(), "decoder.bias": b_dec},
    f / "checkpoints/final.safetensors",
)
norm, threshold = 3.5, 0.4
(f / "hyperparams.json").write_text(json.dumps({
    "d_model": D, "d_sae": F, "hook_point_in": "blocks.15.hook_resid_post", "hook_point_out": "blocks.15.hook_resid_post",
    "jump_relu_threshold": threshold, "dataset_average_activation_norm": {"in": norm, "out": norm},
}))
s = D**0.5 / norm
acts = jump(x @ (W_enc * s) + b_enc, torch.tensor(threshold * s))
expect(f, x, acts, acts @ (W_dec / s) + b_dec / s)

# OpenAI: TopK with its layer norm. encoder.weight is a transposed view, so its strides are not row-major.
f = case("gpt2/resid_post_mlp_v5_32k/autoencoders")
k = 3
torch.save({
    "pre_bias": b_dec, "encoder.weight": W_enc.T, "latent_bias": b_enc, "decoder.weight": W_dec.T.contiguous(),
    "stats_last_nonzero": torch.zeros(F, dtype=torch.int64), "activation": "TopK", "activation_state_dict": {"k": k, "postact_fn": "ReLU"},
}, f / "7.pt")
mu = x.mean(-1, keepdim=True)
std = (x - mu).std(-1, keepdim=True)
acts = topk(((x - mu) / (std + 1e-5) - b_dec) @ W_enc + b_enc, k)
expect(f, x, acts, (acts @ W_dec + b_dec) * std + mu)

# Goodfire (two linear layers), Qwen Scope, Connor and Rob; the first in bfloat16.
f = case("Goodfire/Llama-3.1-8B-Instruct-SAE-l19")
half = {
    "encoder_linear.weight": W_enc.T.contiguous(), "encoder_linear.bias": b_enc,
    "decoder_linear.weight": W_dec.T.contiguous(), "decoder_linear.bias": b_dec,
}
half = {name: t.to(torch.bfloat16) for name, t in half.items()}
torch.save(half, f / "Llama-3.1-8B-Instruct-SAE-l19.pth")
wide = {name: t.float() for name, t in half.items()}
acts = torch.relu(x @ wide["encoder_linear.weight"].T + wide["encoder_linear.bias"])
expect(f, x, acts, acts @ wide["decoder_linear.weight"].T + wide["decoder_linear.bias"])
f = case("Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_4")
torch.save({"W_enc": W_enc.T.contiguous(), "W_dec": W_dec.T.contiguous(), "b_enc": b_enc, "b_dec": b_dec}, f / "layer2.sae.pt")
acts = topk(x @ W_enc + b_enc, 4)
expect(f, x, acts, acts @ W_dec + b_dec)
f = case("ckkissane/attn-saes-gpt2-small-all-layers")
torch.save({name: torch.nn.Parameter(t) for name, t in {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}.items()}, f / "gpt2_L0_z.pt")
(f / "gpt2_L0_z_cfg.json").write_text(json.dumps({"act_size": D, "dict_size": F, "act_name": "blocks.0.attn.hook_z"}))
acts = torch.relu((x - b_dec) @ W_enc + b_enc)
expect(f, x, acts, acts @ W_dec + b_dec)

# circuit-tracer: one layer of a set, with skip connection and thresholds; and a cross-layer transcoder.
f = case("mwhanna/transcoders")
save_file({
    "W_enc": W_enc.T.contiguous(), "W_dec": W_dec, "b_enc": b_enc, "b_dec": b_dec, "W_skip": skip.T.contiguous(),
    "activation_function.threshold": theta,
}, f / "layer_4.safetensors")
(f / "config.yaml").write_text(yaml.safe_dump({
    "model_name": "Qwen/Qwen3-0.6B", "model_kind": "transcoder_set", "feature_input_hook": "mlp.hook_in", "feature_output_hook": "hook_mlp_out",
}))
acts = jump(x @ W_enc + b_enc, theta)
expect(f, x, acts, acts @ W_dec + b_dec + x @ skip)


def clt(layers):
    """Codes and reconstructions of a cross-layer transcoder on xs, side by side."""
    acts = [jump(xs[l] @ p["W_enc"] + p["b_enc"], p["theta"]) for l, p in enumerate(layers)]
    outs = [
        sum(acts[l] @ layers[l]["W_dec"][:, t - l] for l in range(t + 1)) + layers[t]["b_dec"] for t in range(len(layers))
    ]
    return torch.stack(acts, 1), torch.stack(outs, 1)


n = 3
xs = rand(n, B, D) * 2
layers = [
    {"W_enc": rand(D, F), "b_enc": rand(F), "b_dec": rand(D), "theta": torch.rand(F) * 0.5, "W_dec": rand(F, n - l, D)}
    for l in range(n)
]
f = case("mntss/clt")
for l, p in enumerate(layers):
    save_file({
        f"W_enc_{l}": p["W_enc"].T.contiguous(), f"b_enc_{l}": p["b_enc"], f"b_dec_{l}": p["b_dec"], f"threshold_{l}": p["theta"],
    }, f / f"W_enc_{l}.safetensors")
    save_file({f"W_dec_{l}": p["W_dec"]}, f / f"W_dec_{l}.safetensors")
(f / "config.yaml").write_text(yaml.safe_dump({
    "model_name": "google/gemma-2-2b", "model_kind": "cross_layer_transcoder", "feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out",
}))
expect(f, xs, *clt(layers))
f = case("google/gemma-scope-2-270m-pt/clt/width_1k_l0_small")
for l, p in enumerate(layers):
    full = torch.cat([torch.zeros(F, l, D), p["W_dec"]], 1)
    save_file({
        "w_enc": p["W_enc"], "b_enc": p["b_enc"], "w_dec": full, "b_dec": p["b_dec"], "threshold": p["theta"],
    }, f / f"params_layer_{l}.safetensors")
expect(f, xs, *clt(layers))
# Its crosscoders have the same files on the residual stream after some layers.
f = case("google/gemma-scope-2-1b-pt/crosscoder/layer_7_13_22_width_1k_l0_medium")
for l, p in enumerate(layers):
    full = torch.cat([torch.zeros(F, l, D), p["W_dec"]], 1)
    save_file({
        "w_enc": p["W_enc"], "b_enc": p["b_enc"], "w_dec": full, "b_dec": p["b_dec"], "threshold": p["theta"],
    }, f / f"params_layer_{l}.safetensors")
expect(f, xs, *clt(layers))

# Cached activations as the reference system pickles them.
f = case("cache/blocks.0.hook_resid_post")
torch.save({
    "activation": (rand(2, 4, D)).to(torch.bfloat16), "tokens": torch.arange(8).reshape(2, 4), "mask": torch.tensor([[0, 1, 1, 1], [0, 1, 1, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]), "meta": [{"context_idx": 0, "dataset_name": "a"}, {"context_idx": 1, "dataset_name": "a"}],
}, f / "chunk-00000000.pt")

# canrager's temporal SAEs are those of SAELens with other names: only the reading is new.
