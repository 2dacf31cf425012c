"""Copies of blocks that the engine thread makes between steps: so many that they delay no step for long."""

import time
from collections import deque
from collections.abc import Callable

SHARE = 0.1
"""Of a step's time, that copies may take after it."""
LEAST_S = 0.002
"""They may take so much in any case, or a worker of very short steps would hardly copy."""
IDLE_S = 0.02
"""So long at once where nobody waits for a step: then commands get their turn."""


class Copies:
    """Jobs in order of arrival. A job never raises."""

    def __init__(self) -> None:
        self._jobs: deque[Callable[[], None]] = deque()
        self._step_s = 0.0

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def add(self, job: Callable[[], None]) -> None:
        """One block is to be copied."""
        self._jobs.append(job)

    def step_took(self, seconds: float) -> None:
        """The duration of the last step, which says how long copies may take after it."""
        self._step_s = seconds

    def run(self, *, idle: bool) -> None:
        """Do the first job, and more while there is time."""
        limit = IDLE_S if idle else max(LEAST_S, SHARE * self._step_s)
        end = time.monotonic() + limit
        while self._jobs:
            self._jobs.popleft()()
            if time.monotonic() >= end:
                return

    def finish(self) -> None:
        """Do all of them."""
        while self._jobs:
            self._jobs.popleft()()
