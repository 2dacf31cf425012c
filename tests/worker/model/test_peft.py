"""What the peft library writes and computes is what is read and computed here. peft is needed: make test-peers."""

import os

import pytest
import tiny_llama
import torch
from adapters import logits

from argosy_worker.models import load_model
from argosy_worker.models.peft import read_adapter

pytestmark = pytest.mark.skipif("ARGOSY_PEERS" not in os.environ, reason="needs peft: make test-peers")
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize(
    "config",
    [
        {"r": 8, "lora_alpha": 16, "target_modules": ALL},
        {"r": 4, "lora_alpha": 3, "target_modules": "all-linear", "use_rslora": True},
        {"r": 5, "lora_alpha": 8, "target_modules": r".*\.(q_proj|down_proj)", "rank_pattern": {"q_proj": 9}},
        {
            "r": 8, "target_modules": ["q_proj", "v_proj"], "rank_pattern": {"layers.1.self_attn.v_proj": 3},
            "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 40, "v_proj": 4},
        },
        {"r": 8, "target_modules": ["up_proj"], "layers_to_transform": [1]},
    ],
)  # fmt: skip
def test_logits_are_those_of_peft(tmp_path, config):
    peft = pytest.importorskip("peft")
    made = tiny_llama.write(tmp_path / "model")
    loaded = load_model(tmp_path / "model", compute="fp32", device="cpu", threads=1)
    torch.manual_seed(7)
    adapted = peft.get_peft_model(made, peft.LoraConfig(task_type="CAUSAL_LM", **config)).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if ".lora_B." in name:  # which begin as zeros
                parameter.copy_(torch.randn_like(parameter) * 0.5)
    adapted.save_pretrained(tmp_path / "adapter")
    prompt = tiny_llama.PROMPT
    with torch.inference_mode():
        theirs = adapted(torch.tensor([prompt])).logits[0]
        with adapted.disable_adapter():
            plain = adapted(torch.tensor([prompt])).logits[0]
    ours = logits(loaded, prompt, read_adapter(tmp_path / "adapter", loaded.config))
    assert ((plain - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max() > 0.01
    assert (ours - theirs).abs().max() <= 1e-4
