"""A loaded model, or the part of it that one rank of a group has: facts and memory needs.

No torch: what computes is in `torch_model` and `native.model`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from argosy_api.memory import automatic_cache, kv_token_bytes
from argosy_worker.compute.config import DecoderConfig
from argosy_worker.core.batch import CachedRunner, Runner
from argosy_worker.core.facts import ModelFacts
from argosy_worker.machine import memory


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPart:
    """What `load_part` returns: layers without embedding and head."""

    facts: ModelFacts
    """Of the whole model; fingerprint, exactness and size are those of this part."""
    kernels: dict[str, str]
    """Role of a linear layer, `layer`, `attention` or `kv_cache` -> what computes it, why, and why others do not."""
    config: DecoderConfig
    """Of the whole model."""
    threads: int

    @property
    def layers(self) -> int:
        """Layers that are here."""
        return self.config.layers

    @property
    def kv_heads(self) -> int:
        """Key/value heads of each layer that are here."""
        return self.config.kv_heads

    def kv_bytes_per_block(self, block_size: int) -> int:
        """Bytes of one KV block over the layers that are here."""
        config = self.config
        return block_size * kv_token_bytes(
            layers=self.layers, kv_heads=self.kv_heads, head_dim=config.head_dim, kind=self.facts.kv_dtype
        )

    def memory_for_kv(self, kept: int = 0, step: int | None = None) -> int:
        """Bytes that the KV cache takes when nobody says: a share of what is free but `kept` (`argosy_api.memory`).

        `step`: what steps take, where that was measured.
        """
        return automatic_cache(
            max(0, self.memory_left() - kept),
            device=self.facts.device,
            limited=memory().limited,
            one_sequence=self.config.context_length * self.kv_bytes_per_block(1),
            step=step,
        )

    def memory_left(self) -> int:
        """Bytes that a KV cache can take at most, now that the model is loaded."""
        return memory().available

    def host_memory_left(self) -> int:
        """Bytes of the host's memory that can still be taken."""
        return memory().available


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel(LoadedPart, ABC):
    """What `load_model` returns: all of a model, or what rank 0 of a group has, with embedding and head."""

    @abstractmethod
    def make_runner(
        self, num_blocks: int, block_size: int, *, touch: bool = False, host_blocks: int = 0
    ) -> CachedRunner:
        """A runner with its own KV cache of `num_blocks` usable blocks: 1 .. num_blocks; 0 is the null block.

        With `touch` all of its memory is taken now; else the CPU's is taken as blocks are first used. `host_blocks`:
        evicted blocks that host memory is taken for.

        Raises:
            ModelUnsupportedError: there is no host memory for so many.

        """

    def step_bytes(self, block_size: int, *, tokens: int, sequences: int) -> int | None:
        """Bytes that a step takes at most beside weights and KV cache: measured, on a GPU; None elsewhere.

        It has at most so many `tokens`, of so many `sequences`. No KV cache may be there yet.

        Raises:
            ModelDoesNotFitError: there is not so much memory.

        """
        del block_size, tokens, sequences
        return None

    def warm(self, runner: Runner, block_size: int, tokens: int) -> None:
        """Have a runner of this model compute steps that no request waits for; of a group, when all ranks are there.

        They have as many `tokens` as steps may have. Nothing by default.
        """
        del runner, block_size, tokens
