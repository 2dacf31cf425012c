"""Requests that a worker was picked for and that have not come to their router yet.

Until then they count in the books of whoever picked, or the requests of a burst would all go to one worker. A request
takes its pick with it in a header. If it comes to the process that picked, its own account takes the pick's place.
"""

import asyncio
import secrets

from argosy_router.picked import Picked, written
from argosy_router.routing.dispatch import Assignment

UNREPORTED_S = 1.0
"""So long a pick counts as queued beside what its worker reports: workers report once a second."""


class Pick:
    """A worker for one request. Close it."""

    def __init__(self, picks: "Picks", assignment: Assignment) -> None:
        self.token = secrets.token_hex(8)
        self.worker = assignment.decision.worker
        self._picks = picks
        self._assignment = assignment
        self._reported = asyncio.get_running_loop().call_later(UNREPORTED_S, assignment.reported)

    @property
    def header(self) -> str:
        """What the request is to bring along (`picked.HEADER`)."""
        return written(Picked(self.worker, self.token))

    def answered(self) -> None:
        """Its answer has begun: the prompt is computed."""
        self._assignment.tokens(1)
        self.close()

    def close(self) -> None:
        """It has come, or will not. May be called twice."""
        self._reported.cancel()
        self._assignment.close()
        self._picks.forget(self)


class Picks:
    """Of one router."""

    def __init__(self) -> None:
        self._open: dict[str, Pick] = {}

    def __len__(self) -> int:
        """How many count."""
        return len(self._open)

    def open(self, assignment: Assignment) -> Pick:
        """Somebody was told where to go."""
        pick = Pick(self, assignment)
        self._open[pick.token] = pick
        return pick

    def came(self, token: str) -> None:
        """The request of this pick is about to be sent to a worker, from here."""
        if (pick := self._open.get(token)) is not None:
            pick.close()

    def forget(self, pick: Pick) -> None:
        """It counts no more."""
        self._open.pop(pick.token, None)
