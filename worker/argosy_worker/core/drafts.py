"""Who proposes tokens for the scheduler to try, and how a step gets the slots for them."""

import logging
from collections.abc import Sequence
from typing import Protocol, TypeVar

from argosy_api.faults import is_fault
from argosy_worker.core.blocks import BlockPool
from argosy_worker.core.request import Request

T = TypeVar("T")

log = logging.getLogger(__name__)

MOST_FAULTS = 8
"""Faults of a drafter after which it is asked no more."""


class Drafter(Protocol):
    """Proposes tokens that may follow requests' known ones.

    Right or wrong, they never change an answer; each that is right saves its request a step.
    """

    def plan(self, requests: Sequence[Request], most: Sequence[int], budget: int) -> Sequence[int]:
        """How many tokens to try for each of the requests that generate in this step.

        At most `most[i]` for requests[i], and at most `budget` for all together.
        """
        ...

    def draft(self, requests: Sequence[Request], lengths: Sequence[int]) -> Sequence[Sequence[int]]:
        """The tokens: at most `lengths[i]` for requests[i], whose table has slots for so many by now."""
        ...

    def hopes(self, requests: Sequence[Request]) -> bool:
        """Whether it may have something for one of these once their last token, which is awaited, is known.

        Where it says no, the next step is scheduled before that, without drafts.
        """
        ...

    def ended(self, request: Request) -> None:
        """A request has left the scheduler."""
        ...


class NoDrafts:
    """Proposes nothing."""

    def plan(self, requests: Sequence[Request], most: Sequence[int], budget: int) -> Sequence[int]:
        """Nothing."""
        del most, budget
        return [0] * len(requests)

    def draft(self, requests: Sequence[Request], lengths: Sequence[int]) -> Sequence[Sequence[int]]:
        """Nothing."""
        del lengths
        return [()] * len(requests)

    def hopes(self, requests: Sequence[Request]) -> bool:
        """Never."""
        del requests
        return False

    def ended(self, request: Request) -> None:
        """Nothing to forget."""


class Harmless:
    """A drafter whose faults cost drafts, and no request anything: no answer needs a draft."""

    def __init__(self, drafter: Drafter) -> None:
        self._drafter = drafter
        self._faults = 0

    def plan(self, requests: Sequence[Request], most: Sequence[int], budget: int) -> Sequence[int]:
        """As the drafter says; nothing where it fails."""
        try:
            return _whole(self._drafter.plan(requests, most, budget), len(requests))
        except BaseException as error:
            if not is_fault(error):
                raise
            self._failed(error)
        return [0] * len(requests)

    def draft(self, requests: Sequence[Request], lengths: Sequence[int]) -> Sequence[Sequence[int]]:
        """As the drafter says, as far as there are slots; nothing where it fails."""
        try:
            drafts = _whole(self._drafter.draft(requests, lengths), len(requests))
            return [draft[:length] for draft, length in zip(drafts, lengths, strict=True)]
        except BaseException as error:
            if not is_fault(error):
                raise
            self._failed(error)
        return [()] * len(requests)

    def hopes(self, requests: Sequence[Request]) -> bool:
        """As the drafter says; no where it fails."""
        try:
            return self._drafter.hopes(requests)
        except BaseException as error:
            if not is_fault(error):
                raise
            self._failed(error)
        return False

    def ended(self, request: Request) -> None:
        """Tell the drafter."""
        try:
            self._drafter.ended(request)
        except BaseException as error:
            if not is_fault(error):
                raise
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self._faults += 1
        log.error("speculation failed; nothing is drafted in this step", exc_info=error)
        if self._faults == MOST_FAULTS:
            self._drafter = NoDrafts()
            log.error("speculation has failed %d times, and is off from now on", self._faults)


def _whole(found: Sequence[T], count: int) -> Sequence[T]:
    if len(found) != count:
        raise RuntimeError(f"the drafter gave {len(found)} answers for {count} requests")
    return found


def drafts_of(requests: Sequence[Request], drafter: Drafter, pool: BlockPool, budget: int) -> Sequence[Sequence[int]]:
    """What to try after each request's newest token, within the budget and the blocks that are to be had.

    Nobody is made to give blocks up for a draft.
    """
    # where the newest token is awaited, nothing can follow it yet
    most = [0 if r.awaited else r.most_draft for r in requests]
    wanted = drafter.plan(requests, most, budget)
    if not any(wanted):
        return [()] * len(requests)
    lengths = []
    for request, asked, limit in zip(requests, wanted, most, strict=True):
        room = (len(request.table) + pool.available) * request.block_size - len(request.tokens)
        length = max(0, min(asked, limit, room, budget))
        missing = -(-(len(request.tokens) + length) // request.block_size) - len(request.table)
        if length and missing > 0:
            request.table += tuple(pool.allocate(missing))
        lengths.append(length)
        budget -= length
    drafts = drafter.draft(requests, lengths)
    for request, length, draft in zip(requests, lengths, drafts, strict=True):
        if len(draft) < length:
            pool.release(request.trim(len(draft)))
    return drafts
