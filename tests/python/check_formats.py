"""Checks what `lm-saes convert` writes with the libraries it is for: every golden case of another tool's dictionary is read and
written by us in every form that can say it, loaded by the library of that form, and must give the outputs that are stored with the
case, which the first library computed.

    python check_formats.py LM_SAES FIXTURES      # FIXTURES holds saelens/*/case.json

Needs sae-lens (which brings torch); eai-sparsify, dictionary-learning, circuit-tracer and llamascopium (the reference system) are
used where they are installed, and named where they are not.
"""

import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import types
import warnings

warnings.filterwarnings("ignore", message="CUDA is not available")
# PyTorch's products of bfloat16 by AMX are an illegal instruction on some virtual machines; Triton's kernels want a GPU.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")
os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
import torch
from safetensors.torch import load_file

PROGRAM, ROOT = sys.argv[1], pathlib.Path(sys.argv[2]) / "saelens"
torch.set_grad_enabled(False)


class Anything(types.ModuleType):
    """Stands for a library that is imported and not used by what is checked here (nnsight, which runs language models)."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def load_saelens(out):
    from sae_lens import SAE

    sae = SAE.load_from_disk(out, device="cpu")
    return lambda x: (sae.encode(x), sae(x))


def load_sparsify(out):
    from sparsify import SparseCoder

    folder = next(out.glob("*/cfg.json"), out / "cfg.json").parent
    coder = SparseCoder.load_from_disk(folder, device="cpu")

    def apply(x):
        made = coder(x)
        dense = torch.zeros(x.shape[0], coder.num_latents)
        return dense.scatter(-1, made.latent_indices.long(), made.latent_acts), made.sae_out

    return apply


def load_dictionary_learning(out):
    try:
        import nnsight  # noqa: F401
    except ImportError:
        sys.modules["nnsight"] = Anything("nnsight")
    from dictionary_learning.utils import load_dictionary

    sae, config = load_dictionary(str(out), "cpu")
    # Its loader makes the decoder rows of plain ReLU dictionaries unit vectors: other activations, the same reconstruction.
    plain = config["trainer"]["dict_class"] == "AutoEncoder"
    return lambda x: (None if plain else sae.encode(x), sae(x))


def load_circuit_tracer(out):
    from circuit_tracer.transcoder.single_layer_transcoder import load_relu_transcoder

    path = next(out.glob("layer_*.safetensors"))
    layer = int(path.stem.split("_")[1])
    coder = load_relu_transcoder(str(path), layer, torch.device("cpu"), torch.float32, lazy_encoder=False, lazy_decoder=False)

    def apply(x):
        acts = coder.encode(x)
        return acts, coder.decode(acts, x) if coder.W_skip is not None else coder.decode(acts)

    return apply


def load_upstream(out):
    from llamascopium import SparseAutoEncoder

    sae = SparseAutoEncoder.from_pretrained(str(out), fold_activation_scale=False)

    def apply(x):
        # There whoever uses a dictionary scales its input, and its output back.
        factor = sae.cfg.d_model**0.5 / x.norm(dim=-1, keepdim=True) if sae.cfg.norm_activation == "token-wise" else 1
        return sae.encode(x * factor), sae(x * factor) / factor

    return apply


FORMS = {
    "saelens": ("sae_lens", load_saelens),
    "sparsify": ("sparsify", load_sparsify),
    "dictionary-learning": ("dictionary_learning", load_dictionary_learning),
    "circuit-tracer": ("circuit_tracer", load_circuit_tracer),
    "upstream": ("llamascopium", load_upstream),
}


def found(library):
    if importlib.util.find_spec(library) is None:
        return False
    if library == "dictionary_learning":
        return True
    try:
        importlib.import_module(library)
        return True
    except ImportError as missing:
        print(f"{library} is installed and cannot be imported: {missing}")
        return False


def flags(name):
    if name == "standard_expected_average":
        return ["--norm-factor", "0.37"], "norm_scaled."
    return (["--hook-out", "blocks.1.hook_mlp_out"] if name.endswith("transcoder") and not name.startswith("sparsify") else []), ""


def close(name, got, want, tolerance):
    got, want = got.to(torch.float32), want.to(torch.float32).reshape(got.shape)
    worst = ((got - want).abs() - tolerance["atol"] - tolerance["rtol"] * want.abs()).max().item()
    assert worst <= 0, f"{name}: off by {worst} beyond the tolerance"


checked, refused = {form: [] for form in FORMS}, []
have = {form: found(library) for form, (library, _) in FORMS.items()}
# One transcoder as circuit-tracer's users have them, of the width it reads.
foreign = pathlib.Path(__file__).parent.parent / "foreign" / "mwhanna" / "transcoders"
if have["circuit-tracer"]:
    with tempfile.TemporaryDirectory() as folder:
        out, want = pathlib.Path(folder) / "out", load_file(foreign / "expected.safetensors")
        subprocess.run([PROGRAM, "convert", str(foreign / "layer_4.safetensors"), str(out), "--to-format", "circuit-tracer"], check=True)
        acts, made = load_circuit_tracer(out)(want["x"])
        close("mwhanna as circuit-tracer: activations", acts, want["feature_acts"], {"rtol": 1e-4, "atol": 1e-5})
        close("mwhanna as circuit-tracer: reconstruction", made, want["reconstructed"], {"rtol": 1e-4, "atol": 1e-5})
        checked["circuit-tracer"].append("mwhanna")
for case in sorted(p.parent for p in ROOT.glob("*/case.json")):
    name, about = case.name, json.loads((case / "case.json").read_text())
    # Training checkpoints and temporal dictionaries see more than one token at a time.
    if name.startswith("temporal") or (name.startswith("train") and not (case / "inference").is_dir()):
        continue
    inference = (case / "inference").is_dir()
    source = case / "inference" if inference else case / "run" / "layers.1" if (case / "run").is_dir() else case
    extra, prefix = flags(name)
    prefix = "inference." if inference else prefix
    x, want = load_file(case / "inputs.safetensors")["x"], load_file(case / "expected.safetensors")
    acts = want[f"{prefix}feature_acts"]
    made = want["forward"] if not prefix and "forward" in want else want[f"{prefix}reconstructed"]
    for form, (_, load) in FORMS.items():
        if not have[form]:
            continue
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / "out"
            command = [PROGRAM, "convert", str(source), str(out), "--to-format", form, *extra]
            # Weights of 16 bits that the form needs in other numbers are written in 32.
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0 and "--dtype" in done.stderr:
                done = subprocess.run([*command, "--dtype", "float32"], capture_output=True, text=True)
            if done.returncode != 0:
                refused.append(f"{name} as {form}: {done.stderr.strip()}")
                continue
            try:
                # SAELens alone flattens the heads of an attention output itself.
                flat = x.flatten(-2) if name.endswith("hook_z") and form != "saelens" else x
                their_acts, their_made = load(out)(flat)
            except Exception as error:
                raise AssertionError(f"{name} as {form}: its library says {type(error).__name__}: {error}") from error
            if their_acts is not None:
                close(f"{name} as {form}: activations", their_acts, acts, about["tolerance"])
            close(f"{name} as {form}: reconstruction", their_made, made, about["tolerance"])
            checked[form].append(name)
for form, names in checked.items():
    print(f"{form}: {len(names)} dictionaries give in the form's own library what their first library gave: {', '.join(names)}" if have[form]
          else f"{form}: NOT CHECKED, its library is not here")
for why in refused:
    print(f"refused: {why}")
least = {"saelens": 20, "sparsify": 4, "dictionary-learning": 10, "circuit-tracer": 1, "upstream": 8}
for form, count in least.items():
    assert not have[form] or len(checked[form]) >= count, f"too few were checked as {form}"
