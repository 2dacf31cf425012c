"""A loaded model: its facts, its memory needs, and runners over it."""

from dataclasses import dataclass

import torch

from argosy_worker.compute.attention import rows
from argosy_worker.compute.attention.paged import PagedKvCache, PagedTorch
from argosy_worker.compute.attention.tiles import tile_size
from argosy_worker.compute.config import DecoderConfig
from argosy_worker.compute.decoder import Decoder
from argosy_worker.compute.memory import available_bytes
from argosy_worker.compute.runner import TorchRunner
from argosy_worker.core.batch import Runner
from argosy_worker.models.facts import ModelFacts

_CPU_KV_BYTES = 512 * 1024 * 1024
_CPU_SHARE = 0.25
_CUDA_SHARE = 0.85


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What `load_model` returns."""

    facts: ModelFacts
    kernels: dict[str, str]
    """Role of a linear layer, `layer`, `attention` or `kv_cache` -> what computes it, why, and why others do not."""
    decoder: Decoder
    threads: int

    def kv_bytes_per_block(self, block_size: int) -> int:
        """Bytes of one KV block over all layers."""
        config = self.decoder.config
        return config.layers * 2 * config.kv_heads * block_size * config.head_dim * self.decoder.dtype.itemsize

    def memory_for_kv(self) -> int:
        """Bytes that the KV cache takes when nobody says: part of what is free, on the CPU at most 512 MiB."""
        if self.decoder.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.decoder.device)
            return int(free * _CUDA_SHARE)
        return min(_CPU_KV_BYTES, int(available_bytes() * _CPU_SHARE))

    def make_runner(self, num_blocks: int, block_size: int) -> Runner:
        """A runner with its own KV cache of `num_blocks` usable blocks: 1 .. num_blocks; 0 is the null block."""
        config = self.decoder.config
        cache = PagedKvCache(
            layers=config.layers,
            blocks=num_blocks,
            block_size=block_size,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            dtype=self.decoder.dtype,
            device=self.decoder.device,
        )
        found, _ = rows.choose(attention_shape(config, block_size), self.threads)
        return TorchRunner(self.decoder, PagedTorch(cache, found), threads=self.threads)


def attention_shape(config: DecoderConfig, block_size: int) -> rows.Shape:
    """What decides the products of a model's attention."""
    return rows.Shape(
        kv_heads=config.kv_heads,
        queries=config.heads // config.kv_heads,
        head_dim=config.head_dim,
        tile=tile_size(block_size),
    )
