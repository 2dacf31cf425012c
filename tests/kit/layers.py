"""Specs of layers for tests of attention: plain ones, but for what a test is about."""

from argosy_worker.compute.config import Dense, Full, LayerSpec


def layer_spec(*, heads: int, kv_heads: int, head_dim: int, **change: object) -> LayerSpec:
    plain = {
        "hidden": heads * head_dim, "ffn": 4 * heads * head_dim, "rms_eps": 1e-6, "rope": None,
        "attention": Full(), "scale": head_dim**-0.5, "mlp": Dense(),
    }  # fmt: skip
    return LayerSpec(heads=heads, kv_heads=kv_heads, head_dim=head_dim, **{**plain, **change})
