"""`config.json` and the files of the tokenizer, for a model that comes from a GGUF file."""

import json
from typing import Any

from argosy_api.errors import ModelUnsupportedError
from argosy_worker.compute.config import DecoderConfig
from argosy_worker.compute.rope_spec import LinearRope
from argosy_worker.core.facts import TokenizerFacts
from argosy_worker.models.weights import WeightSource

_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def config(weights: WeightSource, facts: TokenizerFacts) -> dict[str, Any]:
    """What transformers wants to know.

    Raises:
        ModelUnsupportedError: an architecture, or a scaling of rotary positions, that has no words there.

    """
    c: DecoderConfig = weights.config
    if c.architecture not in _CLASSES:
        raise ModelUnsupportedError(
            f"a GGUF model of architecture {c.architecture!r} cannot be written as a folder of safetensors; "
            f"can be: {', '.join(_CLASSES)}. A GGUF file can be written of all (--out NAME.gguf)"
        )
    if c.experts or c.window:
        raise ModelUnsupportedError(
            "the GGUF file's experts or sliding window cannot be written as a folder of safetensors; "
            "write a GGUF file (--out NAME.gguf)"
        )
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": c.rope_theta}
    if isinstance(c.rope_scaling, LinearRope):
        rope |= {"rope_type": "linear", "factor": c.rope_scaling.factor}
    elif c.rope_scaling is not None:
        raise ModelUnsupportedError(f"rope scaling {c.rope_scaling} of a GGUF file cannot be written as safetensors")
    ends = list(facts.eos_token_ids)
    return {
        "architectures": [_CLASSES[c.architecture]],
        "model_type": c.architecture,
        "hidden_act": "silu",
        "hidden_size": c.hidden,
        "intermediate_size": c.ffn,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "vocab_size": c.vocab_size,
        "max_position_embeddings": c.context_length,
        "rms_norm_eps": c.rms_eps,
        # transformers 5 reads the second, those before it the first and the third
        "rope_theta": c.rope_theta,
        "rope_parameters": rope,
        "rope_scaling": None if rope["rope_type"] == "default" else {"type": "linear", "factor": rope["factor"]},
        "attention_bias": any(weights.has(f"layers.0.{part}.bias") for part in "qkv"),
        "mlp_bias": False,
        "tie_word_embeddings": c.tied,
        "bos_token_id": facts.bos_token_id,
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
    }


def tokenizer_files(facts: TokenizerFacts) -> dict[str, bytes]:
    """Name -> content."""
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **facts.special_tokens}
    if facts.chat_template:
        settings["chat_template"] = facts.chat_template
    generation = {"bos_token_id": facts.bos_token_id, "eos_token_id": list(facts.eos_token_ids) or None}
    return {
        "tokenizer.json": facts.tokenizer_json,
        "tokenizer_config.json": json.dumps(settings, indent=2, ensure_ascii=False).encode(),
        "generation_config.json": json.dumps(generation, indent=2).encode(),
    }
