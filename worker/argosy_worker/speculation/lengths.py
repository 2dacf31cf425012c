"""How much of what could be guessed is tried in a step: a pure function of chances and costs.

The best step is the one with the most tokens per second. Tokens of all drafts are taken in the order of their chance to
be right together with all before them, so each further one adds less, and the best number of them is found by trying
all (compare Liu et al.: Optimizing Speculative Decoding for Serving Large Language Models Using Goodput, 2024).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

ALONE, IN_COMPANY = 1.02, 1.05
"""Drafts must promise so many times the tokens per second of a step without any, alone or with other requests."""
DEARER_IN_COMPANY = 1.2
"""So many times its seconds a row of a draft counts there: all requests wait for it, and what it saves its own request
is the tokens per second's only where the room of who ends sooner is taken by another.
"""


@dataclass(frozen=True, slots=True)
class Offer:
    """What could be guessed for one request."""

    survival: Sequence[float]
    """For each token the chance that it and all before it are right; never rising."""
    by_model: bool = False
    """Whether a draft model must compute it first."""
    catching_up: float = 0.0
    """Seconds that the draft model needs for what it has not seen yet of the request, its share of this step."""
    behind: float = 0.0
    """The whole of these seconds."""


NOTHING = Offer(())


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of a step."""

    requests: int
    plain: float
    """Of a step without drafts."""
    added: Callable[[int], float]
    """What so many rows of drafts add to it."""
    model_step: Callable[[int], float]
    """What one token of the draft model takes, for so many requests at once."""


def standards(requests: int) -> tuple[float, float]:
    """(times the tokens per second that drafts must promise, times its seconds that a row counts), of so many."""
    return (ALONE, 1.0) if requests == 1 else (IN_COMPANY, DEARER_IN_COMPANY)


def best_lengths(offers: Sequence[Offer], costs: Costs, budget: int) -> list[int]:
    """How many tokens of each offer to try, at most `budget` together; zeros where none promises enough."""
    order = sorted((-s, j, i) for i, offer in enumerate(offers) for j, s in enumerate(offer.survival))[: max(0, budget)]
    gain = spent = 0.0
    depths: dict[int, int] = {}  # place in the draft -> requests that the draft model guesses it for
    margin, dearer = standards(costs.requests)
    best, most = 0, margin * costs.requests / costs.plain
    for count, (chance, j, i) in enumerate(order, 1):
        gain -= chance
        if offers[i].by_model:
            together = depths.get(j, 0)
            spent += costs.model_step(together + 1) - (costs.model_step(together) if together else 0.0)
            spent += 0.0 if j else offers[i].catching_up
            depths[j] = together + 1
        rate = (costs.requests + gain) / (costs.plain + dearer * costs.added(count) + spent)
        if rate > most:
            best, most = count, rate
    lengths = [0] * len(offers)
    for _, _, i in order[:best]:
        lengths[i] += 1
    return lengths
