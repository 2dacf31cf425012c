"""A loaded model of which the native kernels compute all. No torch."""

from dataclasses import dataclass

from argosy_worker.compute.attention.backend import LAYOUT_VERSION, KvSpec
from argosy_worker.compute.loaded import LoadedModel
from argosy_worker.compute.native.cache import NativeKvCache
from argosy_worker.compute.native.decoder import NativeDecoder
from argosy_worker.compute.native.runner import NativeRunner


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeModel(LoadedModel):
    """As its base says."""

    decoder: NativeDecoder

    def make_runner(
        self, num_blocks: int, block_size: int, *, touch: bool = False, host_blocks: int = 0
    ) -> NativeRunner:
        """As its base says."""
        spec = KvSpec(
            layers=self.config.layers,
            kv_heads=self.config.kv_heads,
            head_dim=self.config.head_dim,
            block_size=block_size,
            dtype=self.facts.kv_dtype,
            layout_version=LAYOUT_VERSION,
        )
        return NativeRunner(
            self.decoder, NativeKvCache(spec, num_blocks, touch=touch, host_blocks=host_blocks, threads=self.threads)
        )
