"""A loaded model on torch, or a part of one."""

import logging
from dataclasses import dataclass
from typing import cast

import torch

from argosy_api.errors import ModelDoesNotFitError
from argosy_worker.compute import peak
from argosy_worker.compute.attention import rows
from argosy_worker.compute.attention.backend import AttentionBackend
from argosy_worker.compute.attention.cache import PagedKvCache
from argosy_worker.compute.attention.kernels import AttentionSpec, choose_attention
from argosy_worker.compute.attention.kv_types import KvType
from argosy_worker.compute.attention.tiles import tile_size
from argosy_worker.compute.config import DecoderConfig
from argosy_worker.compute.decoder import Decoder
from argosy_worker.compute.graphs import MOST_EXPECTED, CudaRecord, FixedAttention, Graphs, able
from argosy_worker.compute.loaded import LoadedModel, LoadedPart
from argosy_worker.compute.quant.linear import Linear
from argosy_worker.compute.stack import Stack
from argosy_worker.compute.torch_runner import TorchRunner
from argosy_worker.compute.triton.buckets import likely
from argosy_worker.compute.warm import warm
from argosy_worker.core.batch import Runner
from argosy_worker.sampling.contract import Sampler
from argosy_worker.sampling.sampler import TORCH

log = logging.getLogger(__name__)

_WARMED_TOKENS = 2048
"""That a step has at most before the worker is ready; a step of more is computed by the same kernels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchPart(LoadedPart):
    """As its base says."""

    stack: Stack
    kv_type: KvType
    """In what numbers keys and values are held."""
    head: Linear | None = None
    """Of a rank that shares the head of rank 0: its outputs."""

    @property
    def layers(self) -> int:
        """Layers that are here."""
        return len(self.stack.specs)

    @property
    def kv_heads(self) -> int:
        """Key/value heads of each layer that are here."""
        return self.stack.specs[0].kv_heads

    def memory_left(self) -> int:
        """Bytes that a KV cache can take at most, now that the model is loaded."""
        if self.stack.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.stack.device)
            return int(free)
        return super(TorchPart, self).memory_left()  # `super()` alone does not know a class with slots

    def make_attention(
        self, num_blocks: int, block_size: int, *, touch: bool = False, host_blocks: int = 0
    ) -> AttentionBackend:
        """Attention with its own KV cache; arguments and errors are those of `LoadedModel.make_runner`."""
        config, layers = self.config, self.stack.specs
        cache = PagedKvCache(
            layers=len(layers),
            blocks=num_blocks,
            block_size=block_size,
            kv_heads=self.kv_heads,
            head_dim=config.head_dim,
            dtype=self.stack.dtype,
            device=self.stack.device,
            kind=self.kv_type,
            touch=touch,
            host_blocks=host_blocks,
        )
        found, _ = rows.choose(attention_shape(config, block_size, self.kv_heads), self.threads)
        kernel, _ = choose_attention(AttentionSpec(layers=layers, device=self.stack.device.type))
        return kernel.make(cache, found, layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchModel(TorchPart, LoadedModel):
    """As its bases say."""

    decoder: Decoder
    sampler: Sampler = TORCH

    def make_runner(
        self, num_blocks: int, block_size: int, *, touch: bool = False, host_blocks: int = 0
    ) -> TorchRunner:
        """As its base says."""
        attention = self.make_attention(num_blocks, block_size, touch=touch, host_blocks=host_blocks)
        graphs, verdict = None, able(self.stack, attention)
        if verdict.ok:
            found = cast("FixedAttention", attention)
            config = self.config
            expected = likely(config.context_length, num_blocks * block_size, MOST_EXPECTED)
            graphs = Graphs(
                self.stack, found, CudaRecord(), longest=config.context_length, width=config.hidden, expected=expected
            )
        log.info("graphs: %s (%s)", "on" if verdict.ok else "off", verdict.reason)
        # who waits for nothing inside, as graphs want it, computes beside the host
        return TorchRunner(
            self.decoder, attention, threads=self.threads, sampler=self.sampler, graphs=graphs, asynchronous=verdict.ok
        )

    def step_bytes(self, block_size: int, *, tokens: int, sequences: int) -> int | None:
        """As its base says."""
        if self.stack.device.type != "cuda":
            return None
        log.info("measuring what a step takes: %d tokens, %d sequences", tokens, sequences)
        try:
            step = peak.step_bytes(
                lambda: self._launched(block_size), peak.CudaMeter(self.stack.device), block_size=block_size,
                longest=self.config.context_length, tokens=tokens, sequences=sequences,
            )  # fmt: skip
        except torch.OutOfMemoryError:
            raise ModelDoesNotFitError(
                f"beside the weights this GPU has no room for a step of {tokens} tokens or {sequences} sequences; "
                "engine.maxBatchTokens and engine.maxRunning say how large steps may be"
            ) from None
        log.info("a step takes %d MiB at most", step >> 20)
        return step

    def _launched(self, block_size: int) -> TorchRunner:
        """A runner of which each step is launched kernel by kernel, with hardly a KV cache: graphs would stay."""
        attention = self.make_attention(1, block_size)
        beside = able(self.stack, attention).ok
        return TorchRunner(self.decoder, attention, threads=self.threads, sampler=self.sampler, asynchronous=beside)

    def warm(self, runner: Runner, block_size: int, tokens: int) -> None:
        """As its base says: on a GPU, where kernels are compiled as they are first used."""
        if self.stack.device.type == "cuda":
            most = min(tokens, _WARMED_TOKENS)
            warm(runner, block_size=block_size, longest=self.config.context_length, tokens=most)


def attention_shape(config: DecoderConfig, block_size: int, kv_heads: int = 0) -> rows.Shape:
    """What decides the products of attention over so many of a model's key/value heads; 0 for all."""
    return rows.Shape(
        kv_heads=kv_heads or config.kv_heads,
        queries=config.heads // config.kv_heads,
        head_dim=config.head_dim,
        tile=tile_size(block_size),
    )
