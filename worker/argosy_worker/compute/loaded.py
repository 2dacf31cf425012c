"""A loaded model: its facts, its memory needs, and runners over it."""

from dataclasses import dataclass

import torch

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

_SHARED_KV_BYTES = 512 * 1024 * 1024
_SHARED_SHARE, _OWN_SHARE = 0.25, 0.5
"""Parts of the free memory for the KV cache when nobody says: of a machine that others use, and of our own limit."""
_CUDA_SHARE = 0.85


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

    def kv_bytes_per_block(self, block_size: int) -> int:
        """Bytes of one KV block over all layers."""
        config = self.decoder.config
        return config.layers * 2 * config.kv_heads * block_size * self.kv_type.row_bytes(config.head_dim)

    def memory_for_kv(self) -> int:
        """Bytes that the KV cache takes when nobody says: a share of what is free.

        With a memory limit of our own (a container's) that is half of what the model has left. Without one it is a
        quarter of the machine's free memory, but no more than 512 MiB or one sequence of the model's full context.
        """
        if self.decoder.device.type == "cuda":
            return int(self.memory_left() * _CUDA_SHARE)
        found = memory()
        if found.limited:
            return int(found.available * _OWN_SHARE)
        one_sequence = self.decoder.config.context_length * self.kv_bytes_per_block(1)
        return min(max(_SHARED_KV_BYTES, one_sequence), int(found.available * _SHARED_SHARE))

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
        return TorchRunner(self.decoder, attention, threads=self.threads)


def attention_shape(config: DecoderConfig, block_size: int) -> rows.Shape:
    """What decides the products of a model's attention."""
    return rows.Shape(
        kv_heads=config.kv_heads,
        queries=config.heads // config.kv_heads,
        head_dim=config.head_dim,
        tile=tile_size(block_size),
    )
