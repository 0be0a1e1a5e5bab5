"""Tokens per second of Hugging Face transformers on the forward that benches/benches/lm_forward.rs times:
a randomly initialised GPT-NeoX of Pythia-160M's shape, batch 16 x 256, float32, hidden state after layer index 6
(blocks 0..6), no unembedding. Run beside `cargo bench -p lm-saes-benches --bench lm_forward` on an idle machine:

    python3 -m venv venv && venv/bin/pip install torch transformers
    venv/bin/python benches/hf_forward.py [threads] [repeats]
"""

import statistics
import sys
import time

import torch
from transformers import GPTNeoXConfig, GPTNeoXModel

threads = int(sys.argv[1]) if len(sys.argv) > 1 else 2
repeats = int(sys.argv[2]) if len(sys.argv) > 2 else 5
torch.set_num_threads(threads)
torch.manual_seed(0)
batch, length, layers = 16, 256, 7
config = GPTNeoXConfig(
    vocab_size=50304,
    hidden_size=768,
    num_hidden_layers=layers,
    num_attention_heads=12,
    intermediate_size=3072,
    rotary_pct=0.25,
    max_position_embeddings=2048,
    use_parallel_residual=True,
)
ids = torch.randint(0, config.vocab_size, (batch, length))
for attention in ("sdpa", "eager"):
    model = GPTNeoXModel._from_config(config, attn_implementation=attention).eval()
    with torch.inference_mode():
        model(ids, use_cache=False)
        wall, cpu = [], []
        for _ in range(repeats):
            start, busy = time.perf_counter(), time.process_time()
            model(ids, use_cache=False)
            wall.append(time.perf_counter() - start)
            cpu.append((time.process_time() - busy) / threads)
    rate = [batch * length / statistics.median(seconds) for seconds in (wall, cpu)]
    print(f"{attention}, median of {repeats}: {rate[0]:.0f} tokens/s by wall clock, {rate[1]:.0f} by processor time on {threads} threads")
