"""Decoder configuration from a `config.json` of the Hugging Face layout."""

import math
from typing import Any

from argosy_api.errors import ModelInvalidError, ModelUnsupportedError
from argosy_worker.compute.config import Activation, Clamp, DecoderConfig, Experts, check_layers
from argosy_worker.models.families import BY_MODEL_TYPE, Family, full_layers
from argosy_worker.models.hf_rope import read_rope
from argosy_worker.models.values import flag, integer, number

MODEL_TYPES = tuple(BY_MODEL_TYPE)
_ACTIVATIONS: dict[str, tuple[str, ...]] = {"silu": ("silu",), "gelu_tanh": ("gelu_pytorch_tanh",)}
"""Ours -> its names in files."""


def read_config(raw: dict[str, Any]) -> DecoderConfig:
    """The decoder's shape.

    Raises:
        ModelUnsupportedError: another model type, activation or rope scaling.
        ModelInvalidError: a key is missing, has another type, or makes no sense.

    """
    kind = raw.get("model_type")
    family = BY_MODEL_TYPE.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise ModelUnsupportedError(f"model type {kind!r} is not supported; supported are {', '.join(MODEL_TYPES)}")
    raw = {**family.defaults, **raw}
    if raw.get("use_bidirectional_attention"):
        raise ModelUnsupportedError("attention to later tokens (use_bidirectional_attention) is not supported")
    hidden, heads = integer(raw, "hidden_size"), integer(raw, "num_attention_heads")
    if heads < 1:
        raise ModelInvalidError(f"config.json: num_attention_heads is {heads}")
    layers, context = check_layers(integer(raw, "num_hidden_layers")), integer(raw, "max_position_embeddings")
    head_dim = integer(raw, "head_dim", hidden // heads)
    rope = read_rope(raw, context, family.window_rope_theta)
    unrotated = _unrotated(raw, family, layers)
    window, full = _windows(raw, family, layers, unrotated)
    experts, dense = _experts(raw, family, layers)
    config = DecoderConfig(
        architecture=family.model_type,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=integer(raw, "num_key_value_heads", heads),
        head_dim=head_dim,
        ffn=integer(raw, "intermediate_size"),
        vocab_size=integer(raw, "vocab_size"),
        context_length=context,
        rms_eps=number(raw, "rms_norm_eps", 1e-6),
        rope_theta=rope.theta,
        rope_scaling=rope.scaling,
        rotary_dims=int(head_dim * rope.share),
        unrotated=unrotated,
        window=window,
        full=full,
        window_rope_theta=rope.window_theta,
        scale=_scale(raw, family),
        softcap=number(raw, "attn_logit_softcapping", 0.0),
        sinks=family.sinks,
        norms=family.norms,
        qk_norm=family.qk_norm,
        activation=_activation(raw, family),
        experts=experts,
        expert_ffn=integer(raw, "moe_intermediate_size", 0),
        dense=dense,
        embed_scale=number(raw, "embedding_multiplier", 1.0) if family.multipliers else _embed_scale(family, hidden),
        residual_scale=number(raw, "residual_multiplier", 1.0),
        logit_divisor=number(raw, "logits_scaling", 1.0),
        logit_softcap=number(raw, "final_logit_softcapping", 0.0),
        tied=flag(raw, "tie_word_embeddings", default=False),
    )
    config.check()
    return config


def _embed_scale(family: Family, hidden: int) -> float:
    return math.sqrt(max(hidden, 1)) if family.embed_root else 1.0


def _scale(raw: dict[str, Any], family: Family) -> float:
    if family.multipliers:
        return number(raw, "attention_multiplier", 1.0)
    if (before := number(raw, "query_pre_attn_scalar", 0.0)) < 0:
        raise ModelInvalidError(f"config.json: query_pre_attn_scalar is {before}; must be a positive number")
    return before**-0.5 if before else 0.0


def _activation(raw: dict[str, Any], family: Family) -> Activation:
    name = raw.get("hidden_activation") or raw.get("hidden_act") or _ACTIVATIONS[str(family.activation)][0]
    if name not in _ACTIVATIONS[str(family.activation)]:
        known = ", ".join(_ACTIVATIONS[str(family.activation)])
        raise ModelUnsupportedError(
            f"activation {name!r} is not supported with {family.model_type}; supported is {known}"
        )
    if family.sinks:
        return Clamp(number(raw, "swiglu_alpha", 1.702), number(raw, "swiglu_limit", 7.0))
    return family.activation


def _unrotated(raw: dict[str, Any], family: Family, layers: int) -> frozenset[int]:
    """SmolLM3: `no_rope_layers` has a 1 for each layer that does know positions."""
    if not family.nope_every:
        return frozenset()
    listed = raw.get("no_rope_layers")
    if listed is None:
        every = integer(raw, "no_rope_layer_interval", family.nope_every)
        return full_layers(layers, every) if every > 0 else frozenset()
    if not isinstance(listed, list) or len(listed) != layers:
        raise ModelInvalidError(f"config.json: no_rope_layers must be a list of {layers} numbers")
    return frozenset(i for i, rotated in enumerate(listed) if not rotated)


def _windows(raw: dict[str, Any], family: Family, layers: int, unrotated: frozenset[int]) -> tuple[int, frozenset[int]]:
    """The window, and the layers that do without."""
    window = integer(raw, "sliding_window", 0)
    if not window or not flag(raw, "use_sliding_window", default=True):
        return 0, frozenset()
    if not family.windows:
        raise ModelUnsupportedError(f"sliding_window is not supported with {family.model_type}")
    kinds = raw.get("layer_types")
    if kinds is not None:
        if not isinstance(kinds, list) or len(kinds) != layers:
            raise ModelInvalidError(f"config.json: layer_types must be a list of {layers} names")
        if other := set(map(str, kinds)) - {"full_attention", "sliding_attention"}:
            raise ModelUnsupportedError(f"layers of type {', '.join(sorted(other))} are not supported")
        return window, frozenset(i for i, kind in enumerate(kinds) if kind == "full_attention")
    if family.period:
        period = integer(raw, "sliding_window_pattern", integer(raw, "_sliding_window_pattern", family.period))
        return window, full_layers(layers, max(period, 1))
    if family.nope_every:
        return window, frozenset(range(layers)) - unrotated
    first = integer(raw, "max_window_layers", 28) if family.model_type in ("qwen2", "qwen3") else 0
    return window, frozenset(range(min(first, layers)))


def _experts(raw: dict[str, Any], family: Family, layers: int) -> tuple[Experts | None, frozenset[int]]:
    """The experts, and the layers that do without."""
    if not family.experts:
        return None, frozenset()
    count = integer(raw, "num_local_experts", integer(raw, "num_experts", 0))
    qwen = family.model_type == "qwen3_moe"
    experts = Experts(count, integer(raw, "num_experts_per_tok"), flag(raw, "norm_topk_prob", default=not qwen))
    step = integer(raw, "decoder_sparse_step", 1)
    without = raw.get("mlp_only_layers") or []
    if step < 1 or not isinstance(without, list):
        raise ModelInvalidError(f"config.json: decoder_sparse_step {step} with mlp_only_layers {without!r}")
    return experts, frozenset(i for i in range(layers) if i in without or (i + 1) % step)
