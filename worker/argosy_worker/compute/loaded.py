"""A loaded model: its facts, its memory needs, and runners over it."""

from dataclasses import dataclass

import torch

from argosy_api.memory import automatic_cache, kv_token_bytes
from argosy_worker.compute.attention import rows
from argosy_worker.compute.attention.cache import PagedKvCache
from argosy_worker.compute.attention.kernels import AttentionSpec, choose_attention
from argosy_worker.compute.attention.kv_types import KvType
from argosy_worker.compute.attention.tiles import tile_size
from argosy_worker.compute.config import DecoderConfig
from argosy_worker.compute.decoder import Decoder
from argosy_worker.compute.runner import TorchRunner
from argosy_worker.core.batch import CachedRunner
from argosy_worker.core.facts import ModelFacts
from argosy_worker.machine import memory
from argosy_worker.sampling.sampler import TORCH, Sampler


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What `load_model` returns."""

    facts: ModelFacts
    kernels: dict[str, str]
    """Role of a linear layer, `layer`, `attention` or `kv_cache` -> what computes it, why, and why others do not."""
    decoder: Decoder
    threads: int
    kv_type: KvType
    """In what numbers keys and values are held."""
    sampler: Sampler = TORCH

    def kv_bytes_per_block(self, block_size: int) -> int:
        """Bytes of one KV block over all layers."""
        config = self.decoder.config
        return block_size * kv_token_bytes(
            layers=config.layers, kv_heads=config.kv_heads, head_dim=config.head_dim, kind=self.kv_type.name
        )

    def memory_for_kv(self) -> int:
        """Bytes that the KV cache takes when nobody says: a share of what is free (`argosy_api.memory`)."""
        return automatic_cache(
            self.memory_left(),
            device=self.decoder.device.type,
            limited=memory().limited,
            one_sequence=self.decoder.config.context_length * self.kv_bytes_per_block(1),
        )

    def memory_left(self) -> int:
        """Bytes that a KV cache can take at most, now that the model is loaded."""
        if self.decoder.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.decoder.device)
            return int(free)
        return memory().available

    def host_memory_left(self) -> int:
        """Bytes of the host's memory that can still be taken."""
        return memory().available

    def make_runner(
        self, num_blocks: int, block_size: int, *, touch: bool = False, host_blocks: int = 0
    ) -> CachedRunner:
        """A runner with its own KV cache of `num_blocks` usable blocks: 1 .. num_blocks; 0 is the null block.

        With `touch` all of its memory is taken now; else the CPU's is taken as blocks are first used. `host_blocks`:
        evicted blocks that host memory is taken for.

        Raises:
            ModelUnsupportedError: there is no host memory for so many.

        """
        config = self.decoder.config
        cache = PagedKvCache(
            layers=config.layers,
            blocks=num_blocks,
            block_size=block_size,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            dtype=self.decoder.dtype,
            device=self.decoder.device,
            kind=self.kv_type,
            touch=touch,
            host_blocks=host_blocks,
        )
        found, _ = rows.choose(attention_shape(config, block_size), self.threads)
        layers = config.layer_specs()
        kernel, _ = choose_attention(AttentionSpec(layers=layers, device=self.decoder.device.type))
        attention = kernel.make(cache, found, layers)
        return TorchRunner(self.decoder, attention, threads=self.threads, sampler=self.sampler)


def attention_shape(config: DecoderConfig, block_size: int) -> rows.Shape:
    """What decides the products of a model's attention."""
    return rows.Shape(
        kv_heads=config.kv_heads,
        queries=config.heads // config.kv_heads,
        head_dim=config.head_dim,
        tile=tile_size(block_size),
    )
