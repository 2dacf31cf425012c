"""One client's request, whatever its protocol: how it ends, and what it holds until then."""

from argosy_api.errors import OverloadedError, TooLargeError
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.admission import Account
from argosy_router.clock import now
from argosy_router.gate import Taken
from argosy_router.metrics import UNKNOWN_MODEL
from argosy_router.recent import Passing
from argosy_router.spans import RequestSpan

COLLECTED_FACTOR = 4
"""What a chunk takes as objects, as a multiple of its message."""
LOGPROBS_FACTOR = 36
"""The same of one with log-probabilities: as the objects of an answer, and those as JSON."""


class Request:
    """One client's request: its metrics and what it holds."""

    def __init__(self, account: Account) -> None:
        self.started = now()
        self.model = UNKNOWN_MODEL
        self.code = "OK"
        self.account = account
        self.taken: Taken | None = None
        """Of its tenant's limits."""
        self.span: RequestSpan | None = None
        """Where spans are wanted, from when its model is known."""
        self.flown: list[Passing] = []
        """Its choices that were sent to workers, in the order in which they were."""

    def end_span(self) -> None:
        """It has ended."""
        if self.span is not None:
            first = [one.first_token_s for one in self.flown if one.first_token_s is not None]
            self.span.end(
                self.code,
                prompt=sum(one.prompt_tokens for one in self.flown),
                cached=sum(one.cached_tokens for one in self.flown),
                answer=sum(one.tokens for one in self.flown),
                first_s=min(first, default=None),
            )

    def hold(self, count: int) -> bool:
        """Takes so many bytes, or gives them back (less than zero), and says whether there was room."""
        try:
            self.account.take(count, "max_tokens")
        except (TooLargeError, OverloadedError):
            return False
        return True

    def collect(self, chunk: pb.GenerateChunk) -> None:
        """A chunk is kept until the answer is whole. Raises TooLargeError, OverloadedError."""
        factor = LOGPROBS_FACTOR if chunk.logprobs or chunk.prompt_logprobs else COLLECTED_FACTOR
        self.account.take(factor * chunk.ByteSize(), "max_tokens")
