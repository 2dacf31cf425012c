"""Sizes of the engine."""

from dataclasses import dataclass, field

from argosy_worker.core.blocks import BlockPool, blocks_of_window
from argosy_worker.core.config import SchedulerConfig
from argosy_worker.speculation.config import SpeculationConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Sizes of the engine."""

    num_blocks: int
    host_blocks: int = 0
    """Evicted blocks that host memory has room for."""
    block_size: int = 16
    max_model_len: int = 8192
    prefix_caching: bool = True
    target_step_s: float | None = None
    """What a step should take; None: it may have all the scheduler's `max_batch_tokens`."""
    window: int = 0
    """Positions up to its own that a row sees in any layer of the model; 0: all of them."""
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    speculation: SpeculationConfig = field(default_factory=SpeculationConfig)

    @property
    def window_blocks(self) -> int | None:
        """Blocks before its own that a row reads; None: all."""
        return blocks_of_window(self.window, self.block_size)

    def pool(self) -> BlockPool:
        """Blocks so many, all free."""
        return BlockPool(
            self.num_blocks,
            caching=self.prefix_caching,
            window_blocks=self.window_blocks,
            host_blocks=self.host_blocks,
        )
