#!/usr/bin/env bash
# transformers 5.24.0, accelerate 1.15.0, gguf 0.19.0, torch 2.13.0
#
# Guess: `from_pretrained(..., gguf_file=...)` computes what the file says, or refuses it.
# Seen: of a file of architecture "llama" it leaves out, without a word, the biases of the attention (`blk.N.attn_q.bias`, ...), which
# llama.cpp adds where they are there, and the scaling of the rotary embedding (`llama.rope.scaling.type` and `.factor`), which llama.cpp
# applies: config.attention_bias stays False, rope_type "default", and the logits are those of the file without them, bit for bit.
# So: logits of such a file in transformers are no reference for another program that reads it. Compare config and parameters with the
# keys and tensors of the file before you compare logits, or build the reference from a config.json that says everything.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
venv/bin/pip install --quiet --disable-pip-version-check transformers==5.24.0 accelerate==1.15.0 gguf==0.19.0
HF_HUB_OFFLINE=1 venv/bin/python - 2>stderr.txt <<'PY' || { cat stderr.txt; exit 1; }
import sys

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM

WIDTH, HIDDEN, WORDS, KEYS = 32, 64, 300, 16


def write(path, *, biases=False, scaling=False):
    random = np.random.default_rng(0)

    def drawn(*shape):
        return (random.standard_normal(shape) * 0.3).astype(np.float32)

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(WORDS)
    if scaling:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([chr(256 + i) for i in range(WORDS)])
    writer.add_token_types([1] * WORDS)
    writer.add_token_merges(["\u0100 \u0101"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_tensor("token_embd.weight", drawn(WORDS, WIDTH))
    writer.add_tensor("output.weight", drawn(WORDS, WIDTH))
    shapes = {"attn_q": (WIDTH, WIDTH), "attn_k": (KEYS, WIDTH), "attn_v": (KEYS, WIDTH), "attn_output": (WIDTH, WIDTH)}
    shapes |= {"ffn_gate": (HIDDEN, WIDTH), "ffn_up": (HIDDEN, WIDTH), "ffn_down": (WIDTH, HIDDEN)}
    for name, shape in shapes.items():
        writer.add_tensor(f"blk.0.{name}.weight", drawn(*shape))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    if biases:
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"blk.0.{name}.bias", drawn(shapes[name][0]) * 10)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def loaded(**what):
    write("model.gguf", **what)
    model = AutoModelForCausalLM.from_pretrained(".", gguf_file="model.gguf", dtype=torch.float32)
    biases = [name for name, _ in model.named_parameters() if name.endswith("bias")]
    print(what, "-> attention_bias", model.config.attention_bias, "rope_type", model.config.rope_parameters["rope_type"])
    return biases, model.config.rope_parameters["rope_type"], model(torch.arange(20)[None]).logits


_, _, plain = loaded()
biases, _, with_biases = loaded(biases=True)
_, rope, with_scaling = loaded(scaling=True)
print("logits equal to those of the file without biases:", bool((with_biases == plain).all()))
print("logits equal to those of the file without scaling:", bool((with_scaling == plain).all()))
sys.exit(bool(biases) or rope != "default" or not (with_biases == plain).all() or not (with_scaling == plain).all())
PY
echo "as described"
