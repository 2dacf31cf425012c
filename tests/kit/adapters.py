"""LoRA adapters with random weights, written as the peft library writes them, and what transformers gives with them."""

import json
import math
from weakref import WeakKeyDictionary

import numpy as np
import torch
from safetensors.numpy import save_file

from argosy_api.params import SamplingParams
from argosy_worker.compute.adapted import Adapted
from argosy_worker.compute.adapter import StepAdapters
from argosy_worker.core.batch import SequenceSlice
from argosy_worker.core.layout import make_layout

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def shapes_of(config, targets=LINEARS):
    """Module -> (outputs, inputs) of a Llama of this shape: an object with transformers' names."""
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    queries, keys = config.num_attention_heads * dim, config.num_key_value_heads * dim
    hidden, ffn = config.hidden_size, config.intermediate_size
    sizes = {
        "q_proj": (queries, hidden), "k_proj": (keys, hidden), "v_proj": (keys, hidden), "o_proj": (hidden, queries),
        "gate_proj": (ffn, hidden), "up_proj": (ffn, hidden), "down_proj": (hidden, ffn),
    }  # fmt: skip
    return {
        f"model.layers.{layer}.{'self_attn' if len(name) == 6 and name[1:] == '_proj' else 'mlp'}.{name}": sizes[name]
        for layer in range(config.num_hidden_layers)
        for name in targets
    }


def tensors_of(shapes, seed, *, rank=4, ranks=None, size=1.0):
    """Random matrices of both kinds; `ranks`: module -> rank, where it is another."""
    rng = np.random.default_rng(seed)
    made = {}
    for module, (outputs, inputs) in shapes.items():
        r = (ranks or {}).get(module, rank)
        made[f"base_model.model.{module}.lora_A.weight"] = rng.standard_normal((r, inputs)) * size / math.sqrt(inputs)
        made[f"base_model.model.{module}.lora_B.weight"] = rng.standard_normal((outputs, r)) * size / math.sqrt(r)
    return {name: value.astype(np.float32) for name, value in made.items()}


def write(folder, tensors, *, targets=LINEARS, rank=4, alpha=8, **more):
    """An adapter in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA", "r": rank, "lora_alpha": alpha, "bias": "none", "use_rslora": False, "use_dora": False,
        "target_modules": list(targets), "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {},
        "base_model_name_or_path": "somebody/something", "task_type": "CAUSAL_LM", "lora_dropout": 0.0,
    } | more  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def merged(model, tensors, scale_of):
    """Have transformers' model compute W + scale B A, by peft's formula; undo it with `scale_of` of the other sign."""
    with torch.no_grad():
        for name in tensors:
            if ".lora_A." in name:
                module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                a, b = (torch.from_numpy(tensors[name.replace("lora_A", half)]) for half in ("lora_A", "lora_B"))
                model.get_submodule(module).weight.add_(scale_of(module) * (b @ a))
    return model


def piece(prompt, adapter, at=0, end=None, *, name="r", first=1, **more):
    """A share of a step, with its own blocks from `first` on."""
    return SequenceSlice(
        request_id=name, tokens=prompt[at:end], start=at, table=range(first, first + 8), sample_rows=range(0),
        params=SamplingParams(prompt_logprobs=0), adapter=adapter, **more,
    )  # fmt: skip


def logits(loaded, prompt, adapter):
    """fp32 [len(prompt), vocab] of torch."""
    runner, part = loaded.make_runner(16, 16), piece(prompt, adapter)
    layout = make_layout([part], 16)
    runner._attention.prepare(layout)
    with torch.inference_mode():
        adapted = Adapted(StepAdapters.of([part]), torch.device("cpu"), WeakKeyDictionary())
        hidden = loaded.decoder.hidden(torch.tensor(part.tokens), torch.from_numpy(layout.positions), runner._attention, adapted)  # fmt: skip
        return loaded.decoder.logits(hidden)
