"""Decoder configuration from a `config.json` of the Hugging Face layout."""

import math
from typing import Any

from argosy_api.errors import ModelInvalidError, ModelUnsupportedError
from argosy_worker.compute.config import DecoderConfig, LinearRope, Llama3Rope

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")


def read_config(raw: dict[str, Any]) -> DecoderConfig:
    """The decoder's shape.

    Raises:
        ModelUnsupportedError: another model type, activation or rope scaling.
        ModelInvalidError: a key is missing, has another type, or makes no sense.

    """
    kind = raw.get("model_type")
    if kind not in MODEL_TYPES:
        raise ModelUnsupportedError(f"model type {kind!r} is not supported; supported are {', '.join(MODEL_TYPES)}")
    if raw.get("hidden_act", "silu") != "silu":
        raise ModelUnsupportedError(f"activation {raw['hidden_act']!r} is not supported; supported is 'silu'")
    if raw.get("mlp_bias"):
        raise ModelUnsupportedError("biases in the feed-forward layers are not supported")
    hidden, heads = _integer(raw, "hidden_size"), _integer(raw, "num_attention_heads")
    if heads < 1:
        raise ModelInvalidError(f"config.json: num_attention_heads is {heads}")
    theta, scaling = _rope(raw)
    config = DecoderConfig(
        architecture=str(kind),
        hidden=hidden,
        layers=_integer(raw, "num_hidden_layers"),
        heads=heads,
        kv_heads=_integer(raw, "num_key_value_heads", heads),
        head_dim=_integer(raw, "head_dim", hidden // heads),
        ffn=_integer(raw, "intermediate_size"),
        vocab_size=_integer(raw, "vocab_size"),
        context_length=_context(raw),
        rms_eps=_number(raw, "rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        qk_norm=kind == "qwen3",
        tied=raw.get("tie_word_embeddings", False) is True,
    )
    config.check()
    return config


def _context(raw: dict[str, Any]) -> int:
    context = _integer(raw, "max_position_embeddings")
    window = raw.get("sliding_window")
    if window is None or raw.get("use_sliding_window") is False:
        return context
    # within the window, sliding and full attention are the same
    return min(context, _integer(raw, "sliding_window"))


def _rope(raw: dict[str, Any]) -> tuple[float, LinearRope | Llama3Rope | None]:
    # transformers 5 writes rope_parameters; before, rope_theta stood beside rope_scaling
    both = raw.get("rope_parameters")
    scaling = both if both is not None else raw.get("rope_scaling")
    if scaling is None:
        return _number(raw, "rope_theta", 10000.0), None
    if not isinstance(scaling, dict):
        raise ModelInvalidError("config.json: the rope settings are no object")
    if any(isinstance(value, dict) for value in scaling.values()):
        raise ModelUnsupportedError("rope settings for each kind of layer are not supported")
    theta = _number(scaling if "rope_theta" in scaling else raw, "rope_theta", 10000.0)
    if scaling.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1)) != 1:
        raise ModelUnsupportedError("rotary positions over a part of the head are not supported")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind == "linear":
        factor = _number(scaling, "factor")
        if not 1 <= factor < math.inf:
            raise ModelInvalidError(f"config.json: the rope factor is {factor}; must be at least 1")
        return theta, LinearRope(factor)
    if kind != "llama3":
        raise ModelUnsupportedError(f"rope scaling {kind!r} is not supported; supported are 'linear' and 'llama3'")
    rope = Llama3Rope(
        factor=_number(scaling, "factor"),
        low_freq_factor=_number(scaling, "low_freq_factor"),
        high_freq_factor=_number(scaling, "high_freq_factor"),
        original_context=_integer(scaling, "original_max_position_embeddings"),
    )
    if rope.factor < 1 or rope.high_freq_factor <= rope.low_freq_factor or rope.original_context < 1:
        raise ModelInvalidError(f"config.json: the rope settings {scaling} make no sense")
    return theta, rope


def _integer(raw: dict[str, Any], key: str, default: int | None = None) -> int:
    value = raw.get(key)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int):
        raise ModelInvalidError(f"config.json: {key} is {value!r}; must be an integer")
    return value


def _number(raw: dict[str, Any], key: str, default: float | None = None) -> float:
    value = raw.get(key)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ModelInvalidError(f"config.json: {key} is {value!r}; must be a number")
    return float(value)
