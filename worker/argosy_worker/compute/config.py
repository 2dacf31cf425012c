"""What one decoder needs to know to be any model of the families that `models/families.py` lists. No torch."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from argosy_api import limits
from argosy_api.errors import ModelInvalidError
from argosy_worker.compute.rope_spec import FactorRope, LongRope, Rope, RopeScaling, factors_of
from argosy_worker.core.blocks import common_window

MAX_LAYERS = 1024
MAX_WIDTH = 1 << 20
MAX_CONTEXT = 1 << 24
MAX_EXPERTS = 1 << 16
"""Of all layers together."""


@dataclass(frozen=True, slots=True)
class Full:
    """A row attends to all positions up to its own."""


@dataclass(frozen=True, slots=True)
class Window:
    """A row attends to the last `size` positions up to its own."""

    size: int


@dataclass(frozen=True, slots=True)
class Clamp:
    """SwiGLU of gpt-oss: gate and up are bounded by `limit`; (up + 1) * gate * sigmoid(alpha * gate)."""

    alpha: float
    limit: float


Activation = Literal["silu", "gelu_tanh"] | Clamp


@dataclass(frozen=True, slots=True)
class Dense:
    """One feed-forward part for all rows."""


@dataclass(frozen=True, slots=True)
class Experts:
    """`count` feed-forward parts, of which a row takes the best `used`, weighted by softmax of the router's scores."""

    count: int
    used: int
    normalized: bool = True
    """Whether the softmax is over the chosen ones (the same as over all, made to sum up to 1), or over all."""


Norms = Literal["before", "after", "both"]
"""Where the norms of a layer's two parts stand: on what goes in, on what comes out, or on both."""
QkNorm = Literal["", "head", "width"]
"""RMSNorm of queries and keys before the rotation: none, of each head, or over all heads together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
    """What a layer computes."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    """Width of the feed-forward part, or of each expert."""
    rms_eps: float
    norms: Norms = "before"
    qk_norm: QkNorm = ""
    rope: Rope | None
    """None: the layer does not know positions."""
    attention: Full | Window
    scale: float
    """Factor of the scores: queries times keys."""
    softcap: float = 0.0
    """Bound of the scores: s becomes `softcap * tanh(s / softcap)`, before the mask; 0 for none."""
    sinks: bool = False
    """Whether each head has a learned score more, which takes its part of the weights and adds nothing."""
    mlp: Dense | Experts
    activation: Activation = "silu"
    residual_scale: float = 1.0
    """Factor of what each part adds."""

    @property
    def window(self) -> int:
        """Positions up to its own that a row sees; 0 for all."""
        return self.attention.size if isinstance(self.attention, Window) else 0


def window_of(layers: Iterable[LayerSpec]) -> int:
    """Positions up to its own that a row sees in any layer; 0 for all."""
    return common_window([layer.window for layer in layers])


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """Shape of a decoder: RMSNorm, rotary positions, grouped-query attention, gated feed-forward parts or experts."""

    architecture: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab_size: int
    context_length: int
    rms_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | LongRope | None = None
    rotary_dims: int = 0
    """Leading numbers of a head that are turned; 0 for all."""
    unrotated: frozenset[int] = frozenset()
    """Layers that do not know positions."""
    window: int = 0
    """Positions that a row of a layer with sliding attention sees; 0 for none of that kind."""
    full: frozenset[int] = frozenset()
    """With a window: the layers that attend to all positions all the same."""
    window_rope_theta: float = 0.0
    """Rope base of the layers with sliding attention, without scaling; 0 for what the others have."""
    scale: float = 0.0
    """Factor of the scores; 0 for 1 / sqrt(head_dim)."""
    softcap: float = 0.0
    sinks: bool = False
    norms: Norms = "before"
    qk_norm: QkNorm = ""
    activation: Activation = "silu"
    experts: Experts | None = None
    expert_ffn: int = 0
    """Width of an expert; 0 for `ffn`."""
    dense: frozenset[int] = frozenset()
    """With experts: the layers that have one feed-forward part all the same."""
    embed_scale: float = 1.0
    residual_scale: float = 1.0
    logit_divisor: float = 1.0
    logit_softcap: float = 0.0
    tied: bool = False
    """Whether the embedding is the LM head too."""

    def layer_specs(self) -> tuple[LayerSpec, ...]:
        """What each layer computes. Within its window, sliding attention is full attention."""
        return tuple(self._layer_spec(i) for i in range(self.layers))

    def _layer_spec(self, i: int) -> LayerSpec:
        sliding = self.window > 0 and i not in self.full
        rope = Rope(self.rope_theta, self.rotary_dims or self.head_dim, self._scaling())
        if sliding and self.window_rope_theta:
            rope = Rope(self.window_rope_theta, rope.dims)
        experts = self.experts if i not in self.dense else None
        return LayerSpec(
            hidden=self.hidden,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            ffn=(self.expert_ffn or self.ffn) if experts else self.ffn,
            rms_eps=self.rms_eps,
            norms=self.norms,
            qk_norm=self.qk_norm,
            rope=None if i in self.unrotated else rope,
            attention=Window(self.window) if sliding and self.window < self.context_length else Full(),
            scale=self.scale or self.head_dim**-0.5,
            softcap=self.softcap,
            sinks=self.sinks,
            mlp=experts or Dense(),
            activation=self.activation,
            residual_scale=self.residual_scale,
        )

    def _scaling(self) -> RopeScaling | None:
        found = self.rope_scaling
        if not isinstance(found, LongRope):
            return found
        factors = found.long if self.context_length > found.original_context else found.short
        return FactorRope(factors=factors, attention_factor=found.attention_factor)

    def up_to(self, longest: int | None) -> "DecoderConfig":
        """The model for sequences of up to `longest` tokens: LongRoPE may keep its short factors then."""
        found = self.rope_scaling
        if longest is None or not isinstance(found, LongRope) or longest > found.original_context:
            return self
        return replace(self, context_length=min(self.context_length, found.original_context))

    @property
    def ropes(self) -> frozenset[Rope]:
        """All that the layers use."""
        return frozenset(spec.rope for spec in self.layer_specs() if spec.rope is not None)

    @property
    def layer_weights(self) -> int:
        """Weights of the linears of one layer: multiply-adds that one row costs there."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        wide = self.experts.used * (self.expert_ffn or self.ffn) if self.experts else self.ffn
        return attention + 3 * self.hidden * wide

    def check(self) -> None:
        """Refuse sizes that make no decoder.

        Raises:
            ModelInvalidError: naming the value.

        """
        check_layers(self.layers)
        bounds = {
            "hidden": (self.hidden, MAX_WIDTH),
            "heads": (self.heads, MAX_WIDTH),
            "kv_heads": (self.kv_heads, MAX_WIDTH),
            "head_dim": (self.head_dim, 1024),
            "ffn": (self.ffn, MAX_WIDTH),
            "vocab_size": (self.vocab_size, limits.MAX_VOCAB),
            "context_length": (self.context_length, MAX_CONTEXT),
        }
        for name, (value, most) in bounds.items():
            if not 1 <= value <= most:
                raise ModelInvalidError(f"the model's {name} is {value}; must be 1 to {most}")
        if self.heads % self.kv_heads:
            raise ModelInvalidError(
                f"the model has {self.heads} heads, no multiple of its {self.kv_heads} key/value heads"
            )
        if self.head_dim % 2:
            raise ModelInvalidError(f"the model's head dimension {self.head_dim} is odd; rotary positions need pairs")
        if not 0 < self.rms_eps < 1:
            raise ModelInvalidError(f"the model's RMSNorm epsilon is {self.rms_eps}; must be between 0 and 1")
        if not 1 <= self.rope_theta <= 1e12:
            raise ModelInvalidError(f"the model's rope base is {self.rope_theta}; must be 1 to 1e12")
        dims = self.rotary_dims or self.head_dim
        if not 2 <= dims <= self.head_dim or dims % 2:
            raise ModelInvalidError(f"the model turns {dims} of {self.head_dim} numbers of a head; it must be pairs")
        for factors in factors_of(self.rope_scaling):
            if len(factors) != dims // 2 or not all(0 < factor < math.inf for factor in factors):
                raise ModelInvalidError(
                    f"the model has {len(factors)} rope factors for {dims // 2} pairs; each must be a positive number"
                )
        if self.window < 0 or not 0 <= self.window_rope_theta <= 1e12:
            raise ModelInvalidError(f"the model's window is {self.window} with rope base {self.window_rope_theta}")
        if self.experts and not 1 <= self.experts.used <= self.experts.count <= MAX_EXPERTS // self.layers:
            raise ModelInvalidError(
                f"the model uses {self.experts.used} of {self.experts.count} experts; all layers together may have "
                f"{MAX_EXPERTS}"
            )
        if not 0 <= self.expert_ffn <= MAX_WIDTH:
            raise ModelInvalidError(f"the model's experts have width {self.expert_ffn}; must be up to {MAX_WIDTH}")
        for name in ("scale", "softcap", "logit_softcap"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ModelInvalidError(f"the model's {name} is {getattr(self, name)}; must be a positive number")
        for name in ("embed_scale", "residual_scale", "logit_divisor"):
            if not 0 < abs(getattr(self, name)) < math.inf:
                raise ModelInvalidError(f"the model's {name} is {getattr(self, name)}; must be a number but 0")


def check_layers(layers: int) -> int:
    """A number of layers that lists of layers can be made of. Raises ModelInvalidError."""
    if not 1 <= layers <= MAX_LAYERS:
        raise ModelInvalidError(f"the model's layers is {layers}; must be 1 to {MAX_LAYERS}")
    return layers
