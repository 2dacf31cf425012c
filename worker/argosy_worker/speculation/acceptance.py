"""How often guesses are right, learnt while serving.

A guess of several tokens is right as far as its first wrong one, so what is counted for each token is: of the times
that all before it were right, how often was it right too. Tokens are counted in classes: looked-up ones by how many
tokens before them match, those of a draft model by their place in the draft.

Of many estimates that are a little too high or too low, the drafts that are tried are those of the high ones. So what
all that were tried promised is held against what came of them, and later promises are believed as far as these were
kept.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

CLASSES = 32


class Chance(Protocol):
    """Tells the probability that a token of a class is right, given that all before it are."""

    def of(self, kind: int) -> float:
        """0 to 1."""
        ...


class Prior:
    """What is believed before anything is known."""

    def __init__(self, of: Callable[[int], float]) -> None:
        self._of = of

    def of(self, kind: int) -> float:
        """0 to 1."""
        return self._of(kind)


class Rates:
    """Decayed counts by class; where they are few, the parent's word counts more."""

    def __init__(self, parent: Chance, *, trust: float, keep: float) -> None:
        """`trust`: counts that the parent's word is worth. `keep`: what is left of a count at the next one."""
        self._parent, self._trust, self._keep = parent, trust, keep
        self._right = [0.0] * CLASSES
        self._tried = [0.0] * CLASSES

    def of(self, kind: int) -> float:
        """0 to 1."""
        kind = min(kind, CLASSES - 1)
        return (self._right[kind] + self._trust * self._parent.of(kind)) / (self._tried[kind] + self._trust)

    def add(self, kind: int, *, right: bool) -> None:
        """A token of this class was tried, and all before it were right."""
        kind = min(kind, CLASSES - 1)
        self._right[kind] = self._keep * self._right[kind] + right
        self._tried[kind] = self._keep * self._tried[kind] + 1.0


class Kept:
    """How much of what tried drafts promised came true."""

    _KEEP, _TRUST = 0.98, 4.0

    def __init__(self) -> None:
        self._promised = self._right = self._TRUST

    @property
    def share(self) -> float:
        """0 to 1."""
        return min(1.0, self._right / self._promised)

    def add(self, promised: float, right: int) -> None:
        """A draft of which so many tokens were expected to be right, and so many were."""
        self._promised = self._KEEP * self._promised + promised
        self._right = self._KEEP * self._right + right


def survival(chance: Chance, kinds: Sequence[int]) -> list[float]:
    """For each token of a draft the probability that it and all before it are right."""
    found, so_far = [], 1.0
    for kind in kinds:
        so_far *= chance.of(kind)
        found.append(so_far)
    return found
