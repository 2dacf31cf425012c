"""What the native kernels can compute, and what not. Pure."""

from argosy_worker.compute.config import DecoderConfig, Dense, LayerSpec
from argosy_worker.compute.quant.precision import NATIVE, OWN_GROUP, OWN_TILE, Precision

TILE = 16
"""Positions that are looked at together: a block of the cache has some such tiles."""
HEAD_DIMS = (32, 64, 80, 96, 128, 256)
KV_BITS = {"fp32": 32, "fp16": 16, "int8": 8}
"""Caches that they read and write."""
ACTIVATIONS: dict[object, int] = {"silu": 0, "gelu_tanh": 1}
"""Of the gate, as the kernels number them."""


def cannot(spec: LayerSpec) -> str | None:
    """Why a layer cannot be computed in the one call; None where it can."""
    lacks = [
        what
        for what, there in {
            "rotary positions of such a width": spec.rope is not None and spec.rope.dims % 32 != 0,
            f"heads of {spec.head_dim}": spec.head_dim not in HEAD_DIMS,
            "sinks": spec.sinks,
            "experts": not isinstance(spec.mlp, Dense),
            f"activation {spec.activation}": spec.activation not in ACTIVATIONS,
            "widths that are no multiples of 32": bool(spec.hidden % 32 or spec.ffn % 32),
        }.items()
        if there
    ]
    return f"has none with {', '.join(lacks)}" if lacks else None


def whole(config: DecoderConfig, precision: Precision, kv: str, block_size: int) -> bool:
    """Whether a model is computed by native kernels from the embedding to the token: no torch is needed for it."""
    return (
        precision.weights in NATIVE
        and kv in KV_BITS
        and block_size % TILE == 0
        and config.vocab_size % OWN_TILE == 0
        and all(cannot(spec) is None for spec in config.layer_specs())
        and (config.heads * config.head_dim) % OWN_GROUP == 0
    )
