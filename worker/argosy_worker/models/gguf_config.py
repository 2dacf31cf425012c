"""Decoder configuration from the metadata of a GGUF file.

Every key of the architecture is read, or known to change nothing, or refused. Where llama.cpp has a value in its code
and not in the file (Gemma's scale and windows, SmolLM3's layers without positions), it is in `families.py`.
"""

import math

from argosy_api.errors import ModelInvalidError, ModelUnsupportedError
from argosy_worker.compute.config import Clamp, DecoderConfig, Experts, check_layers
from argosy_worker.compute.rope_spec import FactorRope, LinearRope, LongRope, RopeScaling, YarnRope
from argosy_worker.models.families import BY_ARCHITECTURE, Family, full_layers
from argosy_worker.models.gguf import GgufFile
from argosy_worker.models.gguf_meta import Metadata
from argosy_worker.models.hf_rope import yarn_attention_factor
from argosy_worker.models.weights import read_tensor

ARCHITECTURES = tuple(BY_ARCHITECTURE)
_FREQS, _SHORT, _LONG = "rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"
FACTORS = frozenset({_FREQS, _SHORT, _LONG})
"""Tensors that are part of the configuration."""
_SCALINGS = ("none", "linear", "yarn", "longrope")
_GEMMA_27B = {"gemma2": 46, "gemma3": 62}
"""Layers of the models whose scores are scaled by the hidden width of a head instead of the head's own."""


def read_config(file: GgufFile) -> DecoderConfig:
    """The decoder's shape.

    Raises:
        ModelUnsupportedError: another architecture, or a key that changes what is computed and is not honoured.
        ModelInvalidError: a key is missing, has another type, or makes no sense.

    """
    meta = Metadata(file.metadata)
    arch = meta.text("general.architecture")
    family = BY_ARCHITECTURE.get(arch)
    if family is None:
        raise ModelUnsupportedError(f"architecture {arch!r} is not supported; supported are {', '.join(ARCHITECTURES)}")
    hidden, heads = meta.integer(f"{arch}.embedding_length"), meta.integer(f"{arch}.attention.head_count")
    if heads < 1:
        raise ModelInvalidError(f"{arch}.attention.head_count is {heads}")
    layers, context = check_layers(meta.integer(f"{arch}.block_count")), meta.integer(f"{arch}.context_length")
    head_dim = meta.integer(f"{arch}.attention.key_length", hidden // heads)
    if meta.integer(f"{arch}.attention.value_length", head_dim) != head_dim:
        raise ModelUnsupportedError("keys and values of different sizes are not supported")
    embed = file.tensors.get("token_embd.weight")
    if embed is None or len(embed.shape) != 2:
        raise ModelInvalidError("the file has no matrix 'token_embd.weight'")
    dims = meta.integer(f"{arch}.rope.dimension_count", head_dim)
    if family.permuted and dims != head_dim:
        raise ModelUnsupportedError(f"rotary positions over a part of the head are not supported with {arch}")
    theta = meta.number(f"{arch}.rope.freq_base", 10000.0)
    window, full, window_theta = _windows(meta, arch, family, layers)
    experts = _experts(meta, arch)
    config = DecoderConfig(
        architecture=arch,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=meta.integer(f"{arch}.attention.head_count_kv", heads),
        head_dim=head_dim,
        ffn=meta.integer(f"{arch}.feed_forward_length"),
        vocab_size=embed.shape[0],
        context_length=context,
        rms_eps=meta.number(f"{arch}.attention.layer_norm_rms_epsilon"),
        rope_theta=theta,
        rope_scaling=_rope_scaling(file, meta, family, dims, context),
        rotary_dims=dims,
        unrotated=full_layers(layers, family.nope_every) if family.nope_every else frozenset(),
        window=window,
        full=full,
        window_rope_theta=window_theta,
        scale=_scale(meta, arch, layers, hidden, heads),
        softcap=meta.number(f"{arch}.attn_logit_softcapping", 0.0),
        sinks=family.sinks,
        norms=family.norms,
        qk_norm=family.qk_norm,
        activation=Clamp(1.702, 7.0) if family.sinks else family.activation,
        experts=experts,
        expert_ffn=meta.integer(f"{arch}.expert_feed_forward_length", 0) if experts else 0,
        embed_scale=math.sqrt(max(hidden, 1))
        if family.embed_root
        else _factor(meta, f"{arch}.embedding_scale", family),
        residual_scale=_factor(meta, f"{arch}.residual_scale", family),
        logit_divisor=_factor(meta, f"{arch}.logit_scale", family),
        logit_softcap=meta.number(f"{arch}.final_logit_softcapping", 0.0),
        tied="output.weight" not in file.tensors,
    )
    meta.check_understood(arch)
    config.check()
    return config


def _factor(meta: Metadata, key: str, family: Family) -> float:
    """0 stands for none. Read only for families that have such factors: others' keys are refused, where not neutral."""
    return (meta.number(key, 1.0) or 1.0) if family.multipliers else 1.0


def _scale(meta: Metadata, arch: str, layers: int, hidden: int, heads: int) -> float:
    if layers == _GEMMA_27B.get(arch):
        return 1 / math.sqrt(hidden // heads)
    return meta.number(f"{arch}.attention.scale", 0.0)


def _windows(meta: Metadata, arch: str, family: Family, layers: int) -> tuple[int, frozenset[int], float]:
    """The window, the layers that do without, and the rope base of those that have it."""
    window = meta.integer(f"{arch}.attention.sliding_window", 0)
    pattern = f"{arch}.attention.sliding_window_pattern"
    theta = meta.number(f"{arch}.rope.freq_base_swa", family.window_rope_theta)
    if not window:
        return 0, frozenset(), 0.0
    if not family.windows:
        raise ModelUnsupportedError(f"a sliding window is not supported with {arch}")
    if pattern in meta and not meta.is_integer(pattern):
        sliding = meta.flags(pattern)
        if len(sliding) != layers:
            raise ModelInvalidError(f"metadata {pattern!r} has {len(sliding)} values for {layers} layers")
        return window, frozenset(i for i, one in enumerate(sliding) if not one), theta
    period = meta.integer(pattern, family.period)
    if period < 0:
        raise ModelInvalidError(f"metadata {pattern!r} is {period}")
    return window, full_layers(layers, period) if period else frozenset(), theta


def _experts(meta: Metadata, arch: str) -> Experts | None:
    count = meta.integer(f"{arch}.expert_count", 0)
    used = meta.integer(f"{arch}.expert_used_count", 0)
    if not count:
        return None
    if not BY_ARCHITECTURE[arch].experts:
        raise ModelUnsupportedError(f"experts are not supported with {arch}")
    return Experts(count, used)


def _rope_scaling(
    file: GgufFile, meta: Metadata, family: Family, dims: int, context: int
) -> RopeScaling | LongRope | None:
    """As llama.cpp reads it: without a type a factor is linear, and an older key holds it too; 0 means none."""
    arch = family.architecture
    kind = meta.text(f"{arch}.rope.scaling.type", "linear")
    if kind not in _SCALINGS:
        raise ModelUnsupportedError(f"rope scaling {kind!r} is not supported; supported are {', '.join(_SCALINGS)}")
    older = meta.number(f"{arch}.rope.scale_linear", 0.0)
    factor = meta.number(f"{arch}.rope.scaling.factor", older)
    original = meta.integer(f"{arch}.rope.scaling.original_context_length", context)
    attention = meta.number(f"{arch}.rope.scaling.attn_factor", 1.0)
    if not 0 <= factor < math.inf:
        raise ModelInvalidError(f"metadata {arch}.rope.scaling.factor is {factor}; must be a positive number")
    if original < 1:
        raise ModelInvalidError(f"metadata {arch}.rope.scaling.original_context_length is {original}")
    short, long = _factors(file, _SHORT, dims), _factors(file, _LONG, dims)
    freqs = _factors(file, _FREQS, dims)
    if short or long:
        if not (short and long):
            raise ModelInvalidError(f"the file has only one of {_SHORT!r} and {_LONG!r}")
        return LongRope(short=short, long=long, original_context=original, attention_factor=attention)
    if kind == "longrope":
        raise ModelInvalidError(f"the file has no tensors {_SHORT!r} and {_LONG!r}")
    if kind == "yarn" and factor > 1:
        if freqs:
            raise ModelUnsupportedError(f"{_FREQS!r} together with rope scaling 'yarn' is not supported")
        return YarnRope(
            factor=factor,
            original_context=original,
            beta_fast=meta.number(f"{arch}.rope.scaling.yarn_beta_fast", 32.0),
            beta_slow=meta.number(f"{arch}.rope.scaling.yarn_beta_slow", 1.0),
            truncate=family.yarn_truncate,
            attention_factor=attention * yarn_attention_factor(factor),
        )
    if attention != 1:
        raise ModelUnsupportedError(f"metadata {arch}.rope.scaling.attn_factor ({attention}) is not supported here")
    linear = 1.0 if kind == "none" else factor or 1.0
    if freqs:
        return FactorRope(factors=tuple(one * linear for one in freqs))
    return LinearRope(linear) if linear != 1 else None


def _factors(file: GgufFile, name: str, dims: int) -> tuple[float, ...]:
    """Divisors of the rotary frequencies, one a pair; empty where the file has none."""
    if name not in file.tensors:
        return ()
    found: list[float] = read_tensor(file, name, (dims // 2,)).dequantize().reshape(-1).tolist()
    return tuple(found)
