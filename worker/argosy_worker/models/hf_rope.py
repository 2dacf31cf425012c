"""Rotary positions from a `config.json`: transformers 5 writes `rope_parameters`, before it `rope_scaling`."""

import math
from dataclasses import dataclass
from typing import Any

from argosy_api.errors import ModelInvalidError, ModelUnsupportedError
from argosy_worker.compute.rope_spec import LinearRope, Llama3Rope, LongRope, RopeScaling, YarnRope
from argosy_worker.models.values import integer, number

KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope", "su")


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeSettings:
    """What `DecoderConfig` needs."""

    theta: float
    scaling: RopeScaling | LongRope | None
    share: float
    """Part of a head that is turned."""
    window_theta: float
    """Of layers with sliding attention; 0 where it is that of the others."""


def read_rope(raw: dict[str, Any], context: int, window_theta: float) -> RopeSettings:
    """Read the settings of a model of this context; `window_theta` holds where the file says no other.

    Raises:
        ModelUnsupportedError: another kind of scaling.
        ModelInvalidError: a value is missing or makes no sense.

    """
    settings = raw.get("rope_parameters")
    if settings is None:
        settings = raw.get("rope_scaling") or {}
    if not isinstance(settings, dict):
        raise ModelInvalidError("config.json: the rope settings are no object")
    window_theta = number(raw, "rope_local_base_freq", window_theta)
    if any(isinstance(value, dict) for value in settings.values()):
        settings, window_theta = _by_kind(settings)
    theta = number(settings if "rope_theta" in settings else raw, "rope_theta", 10000.0)
    share = number(settings if "partial_rotary_factor" in settings else raw, "partial_rotary_factor", 1.0)
    scaling = _scaling(raw, settings, context)
    return RopeSettings(theta=theta, scaling=scaling, share=share, window_theta=window_theta)


def _by_kind(settings: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """Gemma 3: settings for each kind of layer."""
    full, sliding = settings.get("full_attention"), settings.get("sliding_attention")
    if set(settings) != {"full_attention", "sliding_attention"} or not isinstance(full, dict | None):
        raise ModelUnsupportedError(f"rope settings for the layers {', '.join(map(str, settings))} are not supported")
    if not isinstance(sliding, dict) or full is None:
        raise ModelInvalidError("config.json: the rope settings of a kind of layer are no object")
    if sliding.get("rope_type", "default") != "default":
        raise ModelUnsupportedError(f"rope scaling {sliding['rope_type']!r} of sliding layers is not supported")
    return full, number(sliding, "rope_theta", 10000.0)


def _scaling(raw: dict[str, Any], settings: dict[str, Any], context: int) -> RopeScaling | LongRope | None:
    kind = settings.get("rope_type", settings.get("type", "default"))
    if kind not in KINDS:
        raise ModelUnsupportedError(f"rope scaling {kind!r} is not supported; supported are {', '.join(KINDS)}")
    if kind in ("default", "dynamic"):
        return None  # dynamic scaling begins beyond the context that the model is served with
    original = integer(
        settings, "original_max_position_embeddings", integer(raw, "original_max_position_embeddings", context)
    )
    if kind in ("longrope", "su"):
        return _longrope(settings, context, original)
    factor = number(settings, "factor")
    if not 1 <= factor < math.inf:
        raise ModelInvalidError(f"config.json: the rope factor is {factor}; must be at least 1")
    if original < 1:
        raise ModelInvalidError(f"config.json: original_max_position_embeddings is {original}")
    if kind == "linear":
        return LinearRope(factor)
    if kind == "yarn":
        return _yarn(settings, factor, original)
    low, high = number(settings, "low_freq_factor"), number(settings, "high_freq_factor")
    if not low < high:
        raise ModelInvalidError(f"config.json: the rope settings {settings} make no sense")
    return Llama3Rope(factor=factor, low_freq_factor=low, high_freq_factor=high, original_context=original)


def yarn_attention_factor(factor: float, weight: float = 1.0) -> float:
    """0.1 weight ln(factor) + 1, the paper's temperature."""
    return 0.1 * weight * math.log(factor) + 1 if factor > 1 else 1.0


def _yarn(settings: dict[str, Any], factor: float, original: int) -> YarnRope:
    above, below = number(settings, "mscale", 0.0), number(settings, "mscale_all_dim", 0.0)
    found = yarn_attention_factor(factor)
    if above and below:
        found = yarn_attention_factor(factor, above) / yarn_attention_factor(factor, below)
    return YarnRope(
        factor=factor,
        original_context=original,
        beta_fast=number(settings, "beta_fast", 32.0) or 32.0,
        beta_slow=number(settings, "beta_slow", 1.0) or 1.0,
        truncate=settings.get("truncate", True) is not False,
        attention_factor=number(settings, "attention_factor", found),
    )


def _longrope(settings: dict[str, Any], context: int, original: int) -> LongRope:
    if original < 2:
        raise ModelInvalidError(f"config.json: original_max_position_embeddings is {original}")
    factor = number(settings, "factor", context / original)
    found = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return LongRope(
        short=_numbers(settings, "short_factor"),
        long=_numbers(settings, "long_factor"),
        original_context=original,
        attention_factor=number(settings, "attention_factor", found),
    )


def _numbers(settings: dict[str, Any], key: str) -> tuple[float, ...]:
    value = settings.get(key)
    if not isinstance(value, list):
        raise ModelInvalidError(f"config.json: {key} is no list of numbers")
    return tuple(number({key: one}, key) for one in value)
