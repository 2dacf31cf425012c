"""Copies between the device's blocks and host memory, as the steps bring them along."""

import time
from collections.abc import Sequence

from argosy_api.faults import is_fault
from argosy_worker.core.batch import Runner, RunnerBrokenError, StepBatch
from argosy_worker.core.host import Move
from argosy_worker.engine.metrics import WorkerMetrics


class Moving:
    """Owned by the engine's thread."""

    def __init__(self, runner: Runner, metrics: WorkerMetrics) -> None:
        self._runner, self._metrics = runner, metrics

    def run(self, moves: Sequence[Move]) -> None:
        """Make the moves in a launch of their own, once: a step that fails is computed again, in parts.

        Raises:
            RunnerBrokenError: they failed. What known blocks hold is not known any more, so nobody can go on with them.

        """
        if not moves:
            return
        began = time.monotonic()
        try:
            self._runner.launch(StepBatch((), moves)).result()
        except BaseException as error:
            if not is_fault(error):
                raise
            raise RunnerBrokenError("blocks cannot be copied to host memory and back any more") from error
        out = sum(move.out for move in moves)
        self._metrics.moved(out, len(moves) - out, time.monotonic() - began)
