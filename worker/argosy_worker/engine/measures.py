"""What each step teaches: the speed of prompts, how large steps may be, and whether guessing ahead pays."""

import logging

from argosy_api.faults import is_fault
from argosy_worker.core.batch import StepOutput
from argosy_worker.core.drafts import MOST_FAULTS
from argosy_worker.core.scheduler import Scheduler, Step
from argosy_worker.engine.config import EngineConfig
from argosy_worker.engine.metrics import WorkerMetrics
from argosy_worker.engine.pace import Pace
from argosy_worker.engine.rate import PrefillRate
from argosy_worker.speculation.speculator import Speculator

log = logging.getLogger(__name__)


class Measures:
    """Owned by the engine's thread."""

    def __init__(
        self, config: EngineConfig, scheduler: Scheduler, speculator: Speculator, metrics: WorkerMetrics
    ) -> None:
        self._scheduler, self._speculator, self._metrics = scheduler, speculator, metrics
        self._rate = PrefillRate()
        self._pace = Pace(config.target_step_s, least=config.block_size, most=config.scheduler.max_batch_tokens)
        self._faults = 0
        scheduler.step_tokens = self._pace.tokens

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens per second; 0 until something was measured."""
        return self._rate.of_steps(self._pace.tokens)

    def take(self, step: Step, outputs: list[StepOutput], seconds: float) -> None:
        """A step was computed, in `seconds` with all that was done to make it."""
        rows = sum(len(piece.tokens) for piece in step.batch.slices[: step.generating])
        self._rate.add(step.batch.num_tokens - rows, rows, seconds)
        self._pace.add(step.batch.num_tokens, seconds)
        self._scheduler.step_tokens = self._pace.tokens
        if rate := self.prefill_rate:
            self._scheduler.prefill_rate = rate
        self._metrics.step(seconds, step.batch.num_tokens, step.preempted)
        self._learn(step, outputs, seconds)

    def _learn(self, step: Step, outputs: list[StepOutput], seconds: float) -> None:
        """No answer needs what is learnt, so a fault here costs no request anything."""
        try:
            counts = self._speculator.learn(step, outputs, seconds)
        except BaseException as error:
            if not is_fault(error):
                raise
            self._faults += 1
            if self._faults <= MOST_FAULTS:  # it may come with every step
                log.exception("what a step's drafts came to is not learnt from")
            return
        self._metrics.speculation(counts, self._speculator.accepted_length, self._speculator.saved)
