"""What one decoder needs to know to be any model of the Llama family. No torch."""

from collections.abc import Iterable
from dataclasses import dataclass

from argosy_api import limits
from argosy_api.errors import ModelInvalidError
from argosy_worker.core.blocks import common_window

MAX_LAYERS = 1024
MAX_WIDTH = 1 << 20
MAX_CONTEXT = 1 << 24


@dataclass(frozen=True, slots=True)
class LinearRope:
    """All positions are divided by `factor`."""

    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Rope:
    """Llama 3.1's frequency scaling: long wavelengths are divided by `factor`, short ones kept, a ramp between."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True, slots=True)
class Full:
    """A row attends to all positions up to its own."""


@dataclass(frozen=True, slots=True)
class Window:
    """A row attends to the last `size` positions up to its own."""

    size: int


@dataclass(frozen=True, slots=True)
class Dense:
    """One feed-forward part for all rows."""


@dataclass(frozen=True, slots=True)
class Experts:
    """`count` feed-forward parts, of which a row takes the best `used`."""

    count: int
    used: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
    """What a layer computes."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    rms_eps: float
    qk_norm: bool
    attention: Full | Window
    scale: float
    """Factor of the scores: queries times keys."""
    softcap: float = 0.0
    """Bound of the scores: s becomes `softcap * tanh(s / softcap)`, before the mask; 0 for none."""
    sinks: bool = False
    """Whether each head has a learned score more, which takes its part of the weights and adds nothing."""
    mlp: Dense | Experts

    @property
    def window(self) -> int:
        """Positions up to its own that a row sees; 0 for all."""
        return self.attention.size if isinstance(self.attention, Window) else 0


def window_of(layers: Iterable[LayerSpec]) -> int:
    """Positions up to its own that a row sees in any layer; 0 for all."""
    return common_window([layer.window for layer in layers])


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """Shape of a decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU."""

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
    rope_scaling: LinearRope | Llama3Rope | None = None
    window: int = 0
    """Positions that a row of a layer with sliding attention sees; 0 for none of that kind."""
    experts: int = 0
    experts_used: int = 0
    qk_norm: bool = False
    """RMSNorm of each query and key head before the rotation (Qwen 3)."""
    tied: bool = False
    """Whether the embedding is the LM head too."""

    def layer_specs(self) -> tuple[LayerSpec, ...]:
        """What each layer computes. Within its window, sliding attention is full attention."""
        mlp = Experts(self.experts, self.experts_used) if self.experts else Dense()
        attention = Window(self.window) if 0 < self.window < self.context_length else Full()
        one = LayerSpec(
            hidden=self.hidden,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            ffn=self.ffn,
            rms_eps=self.rms_eps,
            qk_norm=self.qk_norm,
            attention=attention,
            scale=self.head_dim**-0.5,
            mlp=mlp,
        )
        return (one,) * self.layers

    @property
    def layer_weights(self) -> int:
        """Weights of the linears of one layer: multiply-adds that one row costs there."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        return attention + 3 * self.hidden * self.ffn

    def check(self) -> None:
        """Refuse sizes that make no decoder.

        Raises:
            ModelInvalidError: naming the value.

        """
        bounds = {
            "hidden": (self.hidden, MAX_WIDTH),
            "layers": (self.layers, MAX_LAYERS),
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
