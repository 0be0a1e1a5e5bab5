"""Checks what `lm-saes convert` writes with the libraries it is for: every golden case that SAELens saved is read and written again
by us, loaded by SAELens itself, and must give the outputs that are stored with the case. Files for dictionary_learning must load
with torch.load(weights_only=True).

    python check_formats.py LM_SAES FIXTURES      # needs sae-lens (which brings torch); FIXTURES holds saelens/*/case.json
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

# PyTorch's products of bfloat16 by AMX are an illegal instruction on some virtual machines.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")
import torch
from safetensors.torch import load_file
from sae_lens import SAE

PROGRAM, ROOT = sys.argv[1], pathlib.Path(sys.argv[2]) / "saelens"
FLAGS = {"standard_expected_average": (["--norm-factor", "0.37"], "norm_scaled."), "transcoder": (["--hook-out", "blocks.1.hook_mlp_out"], "")}


def convert(source, target, form, flags):
    command = [PROGRAM, "convert", str(source), str(target), "--to-format", form, *flags]
    return subprocess.run(command, capture_output=True, text=True)


def close(name, got, want, tolerance):
    worst = ((got - want).abs() - tolerance["atol"] - tolerance["rtol"] * want.abs()).max().item()
    assert worst <= 0, f"{name}: off by {worst} beyond the tolerance"


checked, refused = [], {}
for case in sorted(p.parent for p in ROOT.glob("*/case.json")):
    about = json.loads((case / "case.json").read_text())
    source = case / "inference" if (case / "inference").is_dir() else case
    prefix = "inference." if source != case else ""
    flags, own = FLAGS.get(case.name.removeprefix("skip_").removeprefix("jumprelu_").removeprefix("skip_"), ([], ""))
    if case.name.startswith(("temporal", "matching", "sparsify")) or not (source / "cfg.json").exists():
        continue
    prefix = prefix or own
    x, want = load_file(case / "inputs.safetensors")["x"], load_file(case / "expected.safetensors")
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out"
        done = convert(source, out, "saelens", flags)
        if done.returncode != 0:
            refused[case.name] = done.stderr.strip()
            continue
        sae = SAE.load_from_disk(out, device="cpu")
        with torch.no_grad():
            acts = sae.encode(x)
            close(f"{case.name}: feature_acts", acts, want[f"{prefix}feature_acts"].to(acts.dtype), about["tolerance"])
            made = sae.decode(acts)
            close(f"{case.name}: reconstructed", made, want[f"{prefix}reconstructed"].to(made.dtype), about["tolerance"])
        checked.append(case.name)
        torch_form = pathlib.Path(folder) / "dictionary_learning"
        if convert(source, torch_form, "dictionary-learning", flags).returncode == 0:
            state = torch.load(torch_form / "ae.pt", weights_only=True)
            assert json.loads((torch_form / "config.json").read_text())["trainer"]["dict_size"] == 48
            assert any(t.shape == (48, 16) or t.shape == (16, 48) for t in state.values())
print(f"{len(checked)} dictionaries written by lm-saes give in SAELens what SAELens stored: {', '.join(checked)}")
for name, why in refused.items():
    print(f"refused: {name}: {why}")
assert len(checked) >= 20, "too few were checked"
