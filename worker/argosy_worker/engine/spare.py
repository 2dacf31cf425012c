"""What is done while nobody asks for anything: runners prepare for steps to come."""

import logging

from argosy_api.faults import is_fault
from argosy_worker.core.batch import Runner, prepares

log = logging.getLogger(__name__)

QUIET_S = 0.1
"""For so long nothing must have been asked: who has just been answered may ask again."""


class Spare:
    """Owned by the engine's thread."""

    def __init__(self, *runners: Runner) -> None:
        self._left = [found for runner in runners if (found := prepares(runner)) is not None]

    @property
    def left(self) -> bool:
        """Whether there is something to do."""
        return bool(self._left)

    def go_on(self) -> None:
        """Do one piece; no step may be out. What fails is left out: nobody waits for it."""
        if not self._left:
            return
        try:
            more = self._left[0]()
        except BaseException as error:
            if not is_fault(error):
                raise
            log.exception("what was to be prepared for steps to come is left out")
            more = False
        if not more:
            del self._left[0]
