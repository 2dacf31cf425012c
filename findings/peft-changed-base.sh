#!/usr/bin/env bash
# peft 0.21.2, transformers 5.24.0, torch 2.13.0
#
# Guess: a LoRA adapter on disk is a sum for the base model's weights: W + scale * B A. How A and B were initialised before training
# changes nothing of what the files mean, so a server need not read `init_lora_weights` of adapter_config.json.
# Seen: with "pissa" and "olora" peft takes the adapter's initial product out of W when training begins, and saves A and B as they are.
# B A on the published W is then another model than the one that was trained. peft itself does not notice: loading the adapter makes
# the same initialisation again and changes W again. "orthogonal" and true leave W alone, and the sum is right.
# So: servers that only add B A must refuse such adapters by `init_lora_weights`, or answer wrongly without an error. Save with
# path_initial_model_for_weight_conversion, which writes a plain adapter of twice the rank, or merge with peft and serve the whole.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
venv/bin/pip install --quiet --disable-pip-version-check peft==0.21.2 transformers==5.24.0
HF_HUB_OFFLINE=1 venv/bin/python - 2>stderr.txt <<'PY' || { cat stderr.txt; exit 1; }
import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

torch.set_num_threads(1)
IDS = torch.arange(8)[None]
SHAPE = LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=100)


def base():
    torch.manual_seed(0)
    return LlamaForCausalLM(SHAPE).eval()


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def trained(init, folder, *, converted=False):
    """The trained model's logits; the adapter is in the folder."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=init)
    model = get_peft_model(base(), config)
    more = {}
    if converted:
        model.peft_config["default"].init_lora_weights = True
        model.save_pretrained(folder / "initial")
        model.peft_config["default"].init_lora_weights = init
        more = {"path_initial_model_for_weight_conversion": str(folder / "initial")}
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    answer = logits(model)
    model.save_pretrained(folder, **more)
    return answer


def summed(folder):
    """Logits of the base model with the adapter's products added."""
    config, model = json.loads((folder / "adapter_config.json").read_text()), base()
    tensors = load_file(folder / "adapter_model.safetensors")
    with torch.no_grad():
        for name, down in tensors.items():
            if name.endswith(".lora_A.weight"):
                up = tensors[name.replace("lora_A", "lora_B")]
                module = model.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
                module.weight += config["lora_alpha"] / config["r"] * (up @ down)
    return logits(model), config


changed = False
for init, converted, right in [
    (True, False, True), ("orthogonal", False, True), ("pissa", False, False), ("olora", False, False), ("pissa", True, True),
]:  # fmt: skip
    folder = Path(f"{init}-{converted}")
    want = trained(init, folder, converted=converted)
    loaded = (logits(PeftModel.from_pretrained(base(), str(folder))) - want).abs().max().item()
    added, config = summed(folder)
    off = (added - want).abs().max().item()
    said = f"{init}{', converted' if converted else ''}: init_lora_weights {config['init_lora_weights']}, r {config['r']}"
    print(f"{said}; off by {loaded:.1e} when peft loads it, by {off:.1e} as a sum (guess: 0 and 0)")
    changed |= loaded > 1e-5 or not (off < 1e-5 if right else off > 1e-2)
sys.exit(changed)
PY
echo "as described"
