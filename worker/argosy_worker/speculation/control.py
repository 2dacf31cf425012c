"""Decides from measured cost and acceptance how much is tried, and keeps what is lost by it within bounds.

The unit of the purse is a plain step: one of the same requests without drafts. Each step of the engine pays it a
little, tokens that were right pay what they saved, and the cost of drafts is taken out. An empty purse ends all drafts
until it has recovered, so all losses together stay within INCOME of the time and a few steps, however wrong the
estimates are. Where drafts do not seem to pay, what the purse holds buys probes: short drafts that show whether that
has changed.
"""

from collections.abc import Sequence

from argosy_worker.speculation.cost import StepCost
from argosy_worker.speculation.draft_model import Spent
from argosy_worker.speculation.lengths import Costs, Offer, best_lengths

INCOME = 0.01
START, MOST, LEAST = 1.0, 32.0, -2.0
PROBE = 2
"""Tokens of a probe."""
_PAID_IN = 32
_MODEL_SHARE = 0.3
"""What a token of the draft model takes, in plain steps, until it was measured."""


class Controller:
    """The lengths of a step's drafts, and what came of them. Owned by the engine's thread."""

    def __init__(self) -> None:
        self.steps = StepCost()
        self.model_steps = StepCost()
        self.purse = START
        self.saved = 0.0
        """Seconds that drafts have saved so far, less what they cost."""
        self._owed = 0.0  # what catching up has cost, and is paid for over the steps that follow

    def open_to(self, requests: int) -> bool:
        """Whether a step of so many requests may have drafts at all."""
        plain = self.steps.plain(requests)
        if plain is None or plain <= 0 or self.steps.stale(requests) or self.purse < LEAST:
            return False
        # not even a token that is surely right would pay
        return self.steps.added(requests, plain)(1) < plain / requests

    def lengths(self, offers: Sequence[Offer], budget: int) -> list[int]:
        """How many tokens to try of each request's offer. Only where `open_to` says so."""
        costs = self._costs(len(offers))
        found = best_lengths(offers, costs, budget)
        return found if any(found) else self._probe(offers, costs, budget)

    def catching_up(self, rows: int, remaining: int, requests: int) -> float:
        """Seconds of `rows` that the draft model has not seen, spread over half the tokens that may still come."""
        return rows * self.model_row_s(requests) / max(1.0, remaining / 2)

    def model_row_s(self, requests: int) -> float:
        """What a row costs the draft model when it computes many."""
        plain = self.model_steps.plain(1)
        if plain is None:
            plain = _MODEL_SHARE * (self.steps.plain(requests) or 0.0)
        return self.model_steps.added(1, plain)(1) if plain else 0.0

    def learn(self, requests: int, drafted: int, right: int, seconds: float, *, spent: Spent, alone: bool) -> None:
        """A step that took `seconds`, in which `right` of `drafted` tokens were right.

        `spent`: what of it went into making drafts. `alone`: whether the step computed no prompts.
        """
        plain = self.steps.plain(requests)
        if alone:
            self.steps.add(requests, drafted, seconds - spent.guessing - spent.catching_up)
        self.purse = min(MOST, self.purse + INCOME)
        if not plain:
            return
        self._owed += spent.catching_up
        paid = self._owed / _PAID_IN
        self._owed -= paid
        saved = right * plain / requests - self.steps.added(requests, plain)(drafted) - spent.guessing - paid
        self.purse = min(MOST, self.purse + saved / plain)
        self.saved += saved

    def _costs(self, requests: int) -> Costs:
        plain = self.steps.plain(requests) or 1.0

        def model_step(together: int) -> float:
            known = self.model_steps.plain(together)
            if known is None:
                known = self.model_steps.plain(1) or _MODEL_SHARE * plain
            return known

        return Costs(requests, plain, self.steps.added(requests, plain), model_step)

    def _probe(self, offers: Sequence[Offer], costs: Costs, budget: int) -> list[int]:
        """A short draft of the most promising request, if it could pay at all and the purse has what it costs."""
        lengths = [0] * len(offers)
        i = max(range(len(offers)), key=lambda i: offers[i].survival[0] if offers[i].survival else 0.0)
        if not offers[i].survival or budget < 1:
            return lengths
        offer = offers[i]
        sure = Offer([1.0] * len(offer.survival), offer.by_model, offer.catching_up)
        if not any(best_lengths([sure], costs, budget)):
            return lengths
        count = min(PROBE, len(offer.survival), budget)
        seconds = costs.added(count)
        if offer.by_model:
            seconds += count * costs.model_step(1) + offer.catching_up
        if self.purse * costs.plain >= seconds:
            lengths[i] = count
        return lengths
