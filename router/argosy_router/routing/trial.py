"""A canary: which requests go to its workers, and what is measured at them and at the others.

Which side a request belongs to depends on its key alone, so a conversation stays on its side for as long as the weight
stays, and moves at most once while the weight grows. A side without a worker leaves its requests to the other one:
a canary that dies costs nobody an answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol, TypeVar

from argosy_api.measures import Measures, Trial, bucket
from argosy_api.membership import Canary


class Served(Protocol):
    """A worker, as far as canaries go."""

    @property
    def revision(self) -> str:
        """That it tells; empty: it has not said yet."""
        ...


W = TypeVar("W", bound=Served)


def conversation(messages: Sequence[dict[str, Any]], salt: str) -> str:
    """What all requests of a chat have in common: the messages up to its first question."""
    asked = next((i for i, message in enumerate(messages) if message.get("role") == "user"), len(messages))
    return repr((salt, [(m.get("role"), m.get("content")) for m in messages[: asked + 1]]))


def is_for_canary(key: str, weight: int) -> bool:
    """Whether this request is among the `weight` percent."""
    place = int.from_bytes(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
    return place * 100 < weight << 64


def side(canary: Canary, key: str, workers: Sequence[W], *, again: bool) -> list[W]:
    """Who of the workers may get the request; one that failed somewhere (`again`) is not for the canary any more."""
    chosen = not again and is_for_canary(key, canary.weight)
    return [w for w in workers if (w.revision == canary.revision) is chosen] or list(workers)


@dataclass(slots=True)
class Clocked:
    """One attempt at a worker of a side."""

    measures: Measures
    clock: Callable[[], float]
    began: float
    first: float = 0.0
    last: float = 0.0
    tokens: int = 0
    """After those that came first."""

    @classmethod
    def of(cls, trial: Trial, revision: str, clock: Callable[[], float]) -> "Clocked":
        """Begin an attempt at a worker of this revision."""
        measures = trial.canary if revision == trial.revision else trial.stable
        measures.requests += 1
        return cls(measures, clock, clock())

    def came(self, count: int) -> None:
        """Tokens came."""
        self.last = self.clock()
        if self.first:
            self.tokens += count
        else:
            self.first = self.last
            self.measures.ttft[bucket(self.first - self.began)] += 1

    def failed(self) -> None:
        """The worker is at fault."""
        self.measures.errors += 1

    def ended(self) -> None:
        """However it ended."""
        if self.tokens:
            self.measures.itl[bucket((self.last - self.first) / self.tokens)] += 1
            self.tokens = 0
