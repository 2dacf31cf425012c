"""What one decoder needs to know to be any model of the Llama family. No torch."""

from dataclasses import dataclass

from argosy_api import limits
from argosy_api.errors import ModelInvalidError

MAX_LAYERS = 1024
MAX_WIDTH = 1 << 20
MAX_CONTEXT = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Rope:
    """Llama 3.1's frequency scaling: long wavelengths are divided by `factor`, short ones kept, a ramp between."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


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
    rope_scaling: Llama3Rope | None = None
    qk_norm: bool = False
    """RMSNorm of each query and key head before the rotation (Qwen 3)."""
    tied: bool = False
    """Whether the embedding is the LM head too."""

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
