"""The families of models that can be served, and what is fixed for each: one row a family.

Sizes come from a model's own files (`hf_config.py`, `gguf_config.py`); a new family is a row here, and names of
tensors where its files have other ones (`hf_names.py`, `gguf_names.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from argosy_worker.compute.config import Activation, Norms, QkNorm


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What all models of a family share."""

    model_type: str
    """In `config.json`."""
    architecture: str
    """`general.architecture` of GGUF files."""
    norms: Norms = "before"
    qk_norm: QkNorm = ""
    activation: Activation = "silu"
    sinks: bool = False
    experts: bool = False
    windows: bool = False
    """Whether its layers may have sliding attention."""
    period: int = 0
    """Every so many-th layer attends to all positions, the others have the window; 0: the files say which."""
    window_rope_theta: float = 0.0
    """Rope base of the layers with a window, where the files do not say it; 0 for that of the others."""
    embed_root: bool = False
    """Whether embeddings are multiplied by the square root of their width."""
    multipliers: bool = False
    """Whether embeddings, scores, residuals and logits have factors in the files."""
    permuted: bool = False
    """Whether GGUF files hold the rows of q and k as interleaved rotary pairs."""
    norms_less_one: bool = False
    """Whether safetensors hold the weights of norms less 1 (GGUF files hold them whole)."""
    fused: bool = False
    """Whether q, k, v are one tensor, and gate and up another."""
    nope_every: int = 0
    """Every so many-th layer knows no positions, where the files do not say which."""
    yarn_truncate: bool = True
    """Where GGUF files cannot say it."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Values of `config.json` that files may leave out, other than the usual ones."""


_GEMMA = {"head_dim": 256, "tie_word_embeddings": True, "query_pre_attn_scalar": 256, "sliding_window": 4096}
_EPS = {"rms_norm_eps": 1e-5}

FAMILIES: tuple[Family, ...] = (
    Family(model_type="llama", architecture="llama", permuted=True),
    Family(model_type="mistral", architecture="llama", permuted=True, windows=True, defaults={"sliding_window": 4096}),
    Family(
        model_type="mixtral", architecture="llama", permuted=True, windows=True, experts=True,
        defaults={**_EPS, "rope_theta": 1e6, "num_experts_per_tok": 2},
    ),
    Family(
        model_type="smollm3", architecture="smollm3", permuted=True, windows=True, nope_every=4,
        defaults={"rope_theta": 2e6, "tie_word_embeddings": True},
    ),
    Family(model_type="qwen2", architecture="qwen2", windows=True, defaults={"use_sliding_window": False}),
    Family(
        model_type="qwen3", architecture="qwen3", windows=True, qk_norm="head",
        defaults={"head_dim": 128, "use_sliding_window": False},
    ),
    Family(
        model_type="qwen3_moe", architecture="qwen3moe", windows=True, qk_norm="head", experts=True,
        defaults={"use_sliding_window": False, "num_experts_per_tok": 8},
    ),
    Family(
        model_type="gemma2", architecture="gemma2", norms="both", activation="gelu_tanh", windows=True, period=2,
        embed_root=True, norms_less_one=True,
        defaults={**_GEMMA, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    ),
    Family(
        model_type="gemma3_text", architecture="gemma3", norms="both", qk_norm="head", activation="gelu_tanh",
        windows=True, period=6, window_rope_theta=1e4, embed_root=True, norms_less_one=True,
        defaults={**_GEMMA, "rope_theta": 1e6, "max_position_embeddings": 131072},
    ),
    Family(model_type="phi3", architecture="phi3", windows=True, fused=True, defaults=_EPS),
    Family(model_type="granite", architecture="granite", permuted=True, multipliers=True),
    Family(model_type="olmo2", architecture="olmo2", norms="after", qk_norm="width", defaults=_EPS),
    Family(
        model_type="gpt_oss", architecture="gpt-oss", sinks=True, experts=True, windows=True, period=2,
        yarn_truncate=False,
        defaults={**_EPS, "head_dim": 64, "rope_theta": 150000.0, "sliding_window": 128, "num_experts_per_tok": 4},
    ),
)  # fmt: skip

BY_MODEL_TYPE = {family.model_type: family for family in FAMILIES}
BY_ARCHITECTURE = {family.architecture: family for family in FAMILIES}
"""Llama and Mistral are converted to `llama`, too, as Mixtral without experts and with or without a window."""


def full_layers(layers: int, period: int) -> frozenset[int]:
    """Of `layers`, those that attend to all positions: every `period`-th."""
    return frozenset(i for i in range(layers) if (i + 1) % period == 0)
