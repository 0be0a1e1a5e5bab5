"""What `--plan` says a cross-layer transcoder of full size takes, beside the peak of the process that trains it:
cli/examples/pythia_clt.toml (12 layers, d 768, 12 x 6144 features, layertopk down to 256), some steps and the final checkpoint,
on a model of Pythia-160M's shape with made-up weights in f16.

    python3 benches/clt_memory.py target/release/lm-saes [STEPS]

Needs 8 GB of memory and 10 GB of disk in the temporary folder.
"""

import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

D, LAYERS, VOCAB = 768, 12, 50304
ROOT = pathlib.Path(__file__).resolve().parent.parent
RANDOM = random.Random(1)
TILE = struct.pack("<65536e", *(RANDOM.gauss(0, 0.02) for _ in range(65536)))
ONES = struct.pack("<e", 1.0)


def shapes():
    norm = lambda name: [(f"{name}.weight", [D]), (f"{name}.bias", [D])]
    linear = lambda name, out, into: [(f"{name}.weight", [out, into]), (f"{name}.bias", [out])]
    yield "gpt_neox.embed_in.weight", [VOCAB, D]
    for i in range(LAYERS):
        at = f"gpt_neox.layers.{i}."
        yield from norm(at + "input_layernorm") + norm(at + "post_attention_layernorm")
        yield from linear(at + "attention.query_key_value", 3 * D, D) + linear(at + "attention.dense", D, D)
        yield from linear(at + "mlp.dense_h_to_4h", 4 * D, D) + linear(at + "mlp.dense_4h_to_h", D, 4 * D)
    yield from norm("gpt_neox.final_layer_norm")
    yield "embed_out.weight", [VOCAB, D]


def write_model(folder):
    config = {
        "model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "hidden_size": D, "intermediate_size": 4 * D,
        "num_hidden_layers": LAYERS, "num_attention_heads": 12, "vocab_size": VOCAB, "max_position_embeddings": 2048,
        "rotary_pct": 0.25, "rotary_emb_base": 10000, "layer_norm_eps": 1e-5, "use_parallel_residual": True,
        "hidden_act": "gelu", "tie_word_embeddings": False,
    }
    assets = ROOT / "cli/assets/quickstart"
    (folder / "tokenizer.json").write_bytes((assets / "tokenizer.json").read_bytes())
    special = {key: value for key, value in json.loads((assets / "config.json").read_text()).items() if "token_id" in key}
    (folder / "config.json").write_text(json.dumps(config | special))
    header, end = {}, 0
    for name, shape in shapes():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, slot in header.items():
            size = slot["data_offsets"][1] - slot["data_offsets"][0]
            if "norm.weight" in name:
                f.write(ONES * (size // 2))
                continue
            for _ in range(size // len(TILE)):
                f.write(TILE)
            f.write(TILE[: size % len(TILE)])


def main():
    binary, steps = pathlib.Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 8
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        (work / "pythia-160m").mkdir()
        write_model(work / "pythia-160m")
        # Fewer steps than the recipe's warm-up; k begins at 2048 as in the recipe.
        sets = [
            f"datasets.text.dataset_name_or_path={ROOT}/cli/assets/quickstart/text.jsonl",
            "activation_factory.overflow=pack", f"trainer.total_training_tokens={1024 * steps}",
            "trainer.lr_warm_up_steps=2", "trainer.log_frequency=1", "eval=false", "device_type=cpu",
        ]
        command = [str(binary), "train", str(ROOT / "cli/examples/pythia_clt.toml")]
        command += [word for s in sets for word in ("--set", s)]
        plan = subprocess.run(command + ["--plan", "--json"], cwd=work, text=True, capture_output=True)
        if plan.returncode:
            sys.exit(plan.stdout + plan.stderr)
        shares = json.loads(plan.stdout)["memory"]
        for share in shares:
            print(f"{share['bytes'] / 1e9:8.3f} GB  {share['what']}")
        planned = sum(share["bytes"] for share in shares)
        run = subprocess.Popen(command, cwd=work, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output = run.stdout.read()
        _, status, usage = os.wait4(run.pid, 0)
        if status:
            sys.exit(output)
        print(output)
        peak = usage.ru_maxrss * 1024
        print(f"planned {planned / 1e9:.3f} GB, peak {peak / 1e9:.3f} GB, planned / peak {planned / peak:.3f}")


main()
