"""A loaded model, or the part of it that one rank of a group has: facts, memory needs, and what computes over it."""

from dataclasses import dataclass

import torch

from argosy_api.memory import automatic_cache, kv_token_bytes
from argosy_worker.compute.attention import rows
from argosy_worker.compute.attention.backend import AttentionBackend
from argosy_worker.compute.attention.cache import PagedKvCache
from argosy_worker.compute.attention.kernels import AttentionSpec, choose_attention
from argosy_worker.compute.attention.kv_types import KvType
from argosy_worker.compute.attention.tiles import tile_size
from argosy_worker.compute.config import DecoderConfig
from argosy_worker.compute.decoder import Decoder
from argosy_worker.compute.runner import TorchRunner
from argosy_worker.compute.stack import Stack
from argosy_worker.core.batch import CachedRunner
from argosy_worker.core.facts import ModelFacts
from argosy_worker.machine import memory
from argosy_worker.sampling.sampler import TORCH, Sampler


@dataclass(frozen=True, slots=True)
class LoadedPart:
    """What `load_part` returns: layers without embedding and head."""

    facts: ModelFacts
    """Of the whole model; fingerprint, exactness and size are those of this part."""
    kernels: dict[str, str]
    """Role of a linear layer, `layer`, `attention` or `kv_cache` -> what computes it, why, and why others do not."""
    config: DecoderConfig
    """Of the whole model."""
    stack: Stack
    threads: int
    kv_type: KvType
    """In what numbers keys and values are held."""

    def kv_bytes_per_block(self, block_size: int) -> int:
        """Bytes of one KV block over the layers that are here."""
        config = self.config
        return block_size * kv_token_bytes(
            layers=len(self.stack.specs), kv_heads=config.kv_heads, head_dim=config.head_dim, kind=self.kv_type.name
        )

    def memory_for_kv(self) -> int:
        """Bytes that the KV cache takes when nobody says: a share of what is free (`argosy_api.memory`)."""
        return automatic_cache(
            self.memory_left(),
            device=self.stack.device.type,
            limited=memory().limited,
            one_sequence=self.config.context_length * self.kv_bytes_per_block(1),
        )

    def memory_left(self) -> int:
        """Bytes that a KV cache can take at most, now that the model is loaded."""
        if self.stack.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.stack.device)
            return int(free)
        return memory().available

    def host_memory_left(self) -> int:
        """Bytes of the host's memory that can still be taken."""
        return memory().available

    def make_attention(
        self, num_blocks: int, block_size: int, *, touch: bool = False, host_blocks: int = 0
    ) -> AttentionBackend:
        """Attention with its own KV cache of `num_blocks` usable blocks: 1 .. num_blocks; 0 is the null block.

        With `touch` all of its memory is taken now; else the CPU's is taken as blocks are first used. `host_blocks`:
        evicted blocks that host memory is taken for.

        Raises:
            ModelUnsupportedError: there is no host memory for so many.

        """
        config, layers = self.config, self.stack.specs
        cache = PagedKvCache(
            layers=len(layers),
            blocks=num_blocks,
            block_size=block_size,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            dtype=self.stack.dtype,
            device=self.stack.device,
            kind=self.kv_type,
            touch=touch,
            host_blocks=host_blocks,
        )
        found, _ = rows.choose(attention_shape(config, block_size), self.threads)
        kernel, _ = choose_attention(AttentionSpec(layers=layers, device=self.stack.device.type))
        return kernel.make(cache, found, layers)


@dataclass(frozen=True, slots=True)
class LoadedModel(LoadedPart):
    """What `load_model` returns: all of a model, or what rank 0 of a group has, with embedding and head."""

    decoder: Decoder
    sampler: Sampler = TORCH

    def make_runner(
        self, num_blocks: int, block_size: int, *, touch: bool = False, host_blocks: int = 0
    ) -> CachedRunner:
        """A runner with its own KV cache; arguments and errors are those of `make_attention`."""
        attention = self.make_attention(num_blocks, block_size, touch=touch, host_blocks=host_blocks)
        return TorchRunner(self.decoder, attention, threads=self.threads, sampler=self.sampler)


def attention_shape(config: DecoderConfig, block_size: int) -> rows.Shape:
    """What decides the products of a model's attention."""
    return rows.Shape(
        kv_heads=config.kv_heads,
        queries=config.heads // config.kv_heads,
        head_dim=config.head_dim,
        tile=tile_size(block_size),
    )
