"""How the scheduler works: its limits, and the order of the line."""

from dataclasses import dataclass, field

from argosy_api import limits
from argosy_api.order import RESOURCE_DEFAULTS, Order
from argosy_worker.core.batching import Forming


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """Limits of one step, and the order of the line."""

    max_batch_tokens: int = 256
    max_running: int = 64
    max_waiting: int = limits.MAX_WAITING
    order: Order = RESOURCE_DEFAULTS.order
    ageing: float = RESOURCE_DEFAULTS.ageing
    """Seconds of work that one second of waiting outweighs."""
    max_prompt_share: float = 1.0
    """Part of a step's prompt tokens that one prompt may have while others have tokens to compute, too."""
    least_prompt_tokens: int = 16
    """What prompts have of a step at least, however many requests generate, as far as `max_batch_tokens` allows."""
    forming: Forming = field(default_factory=Forming)
    """How batches form."""

    @property
    def max_requests(self) -> int:
        """Requests here at a time. A bound on the waiting alone would refuse a burst that finds an idle engine."""
        return self.max_running + self.max_waiting
