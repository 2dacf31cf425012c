"""Decides from measured cost and acceptance how much is tried, and keeps what is lost by it within bounds.

The unit of the purse is a plain step: one of the same requests without drafts. Each step of the engine pays it a
little, tokens that were right pay what they saved, and the cost of drafts is taken out. An empty purse ends all drafts
until it has recovered, so all losses together stay within INCOME of the time and a few steps, however wrong the
estimates are. Where drafts do not seem to pay, what the purse holds buys probes: short drafts that show whether that
has changed. They become rarer, each time twice as rare, until some drafts seem to pay again: where many share a step,
the most promising guesses are right more often than not, and lose a little all the same.

A draft model is asked for nothing, not even for its share of a prompt, where it could not pay if it were always right:
by what its steps were measured to take beside the model's own, the first time when the worker starts. Where it could
and does not, its probes become rarer still, and it is not even considered in every step.
"""

from collections.abc import Sequence

from argosy_api import limits
from argosy_worker.speculation.cost import StepCost
from argosy_worker.speculation.draft_model import Spent
from argosy_worker.speculation.lengths import Costs, Offer, best_lengths

INCOME = 0.01
START, MOST, LEAST = 1.0, 32.0, -2.0
PROBE = 2
"""Tokens of a probe."""
_PAID_IN = 32
_MODEL_SHARE = 0.3
"""What a token of the draft model takes, in plain steps, where it was not measured."""
_LOOK_AGAIN, _COSTS_HOLD = 16, 64
"""Steps after which a draft model that does not pay, or could not, is considered again."""
_PROBE_GAP, _LONGEST_GAP = 16, 1024
"""Steps between two probes of the draft model: at first, and at most."""
_LONGEST_LOOK_UP = 32
"""Likewise of looked-up tokens, which begin with 1."""
_IN_VAIN, _LONGEST_REST = 4, 4
"""Times that drafts of many requests were considered in vain until a step goes by without, until two do, and so on, up
to so many: looking up takes a hundredth of such a step, and a text that repeats itself goes on to do so.
"""


class _Gap:
    """Steps between two probes."""

    def __init__(self, first: int, longest: int) -> None:
        self._first, self._longest = first, longest
        self._steps, self._next = first, 0

    def over(self, now: int) -> bool:
        """Whether there may be one."""
        return now >= self._next

    def begin(self, now: int) -> None:
        """There was one."""
        self._next, self._steps = now + self._steps, min(2 * self._steps, self._longest)

    def reset(self) -> None:
        """Drafts seem to pay."""
        self._steps = self._first


class Controller:
    """The lengths of a step's drafts, and what came of them. Owned by the engine's thread."""

    def __init__(self, *, model_share: float | None = None) -> None:
        """`model_share`: what a row of the draft model was measured to take, in plain steps. It is never believed to
        take less, since the machine may have been less busy when it was last used.
        """
        self.steps = StepCost()
        self.model_steps = StepCost()
        self.purse = START
        self.saved = 0.0
        """Seconds that drafts have saved so far, less what they cost."""
        self._owed = 0.0  # what catching up has cost, and is paid for over the steps that follow
        self._learnt = 0  # steps
        self._rests: dict[int, int] = {}  # size of a step -> when the draft model is to be considered again
        self._gaps = {True: _Gap(_PROBE_GAP, _LONGEST_GAP), False: _Gap(1, _LONGEST_LOOK_UP)}  # by model, or looked up
        self._vain: dict[int, int] = {}  # size of a step -> how often drafts were considered and did not pay
        self._waits: dict[int, int] = {}  # size of a step -> when they are to be considered again
        self._share = model_share

    def open_to(self, requests: int) -> bool:
        """Whether a step of so many requests may have drafts at all."""
        if self._learnt < self._waits.get(requests.bit_length(), 0):
            return False
        plain = self.steps.plain(requests)
        if plain is None or plain <= 0 or self.steps.stale(requests) or self.purse < LEAST:
            return False
        # Not even the longest drafts would pay if they were surely right. (One token alone may not where drafts cost
        # something at all, while those of many requests share that.)
        most = requests * limits.MAX_DRAFT
        return self.steps.added(requests, plain)(most) < plain * limits.MAX_DRAFT

    def lengths(self, offers: Sequence[Offer], budget: int) -> list[int]:
        """How many tokens to try of each request's offer. Only where `open_to` says so."""
        costs = self._costs(len(offers))
        found = best_lengths(offers, costs, budget)
        self._rest(len(offers), in_vain=not any(found))
        if any(found):
            for by_model in {offer.by_model for length, offer in zip(found, offers, strict=True) if length}:
                self._gaps[by_model].reset()
            return found
        if any(offer.by_model for offer in offers):
            self._rests[len(offers).bit_length()] = self._learnt + _LOOK_AGAIN
        return self._probe(offers, costs, budget)

    def asks_model(self, requests: int, most: int) -> bool:
        """Whether drafts of a model are to be considered in a step of so many requests, `most` tokens for each."""
        size = requests.bit_length()
        if self._learnt < self._rests.get(size, 0):
            return False
        sure = Offer([1.0] * most, by_model=True)
        if any(best_lengths([sure] * requests, self._costs(requests), requests * most)):
            return True
        self._rests[size] = self._learnt + _COSTS_HOLD
        return False

    def catching_up(self, rows: int, requests: int) -> float:
        """Seconds that the draft model needs for `rows` that it has not seen."""
        return rows * self.model_row_s(requests)

    def model_row_s(self, requests: int) -> float:
        """What a row costs the draft model when it computes many."""
        plain = self._model_step(1, self.steps.plain(requests) or 0.0)
        return self.model_steps.added(1, plain)(1) if plain else 0.0

    def learn(self, requests: int, drafted: int, right: int, seconds: float, *, spent: Spent, alone: bool) -> None:
        """A step that took `seconds`, in which `right` of `drafted` tokens were right.

        `spent`: what of it went into making drafts. `alone`: whether the step computed no prompts.
        """
        plain = self.steps.plain(requests)
        self._learnt += 1
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

    def _rest(self, requests: int, *, in_vain: bool) -> None:
        size = requests.bit_length()
        self._vain[size] = vain = self._vain.get(size, 0) + 1 if in_vain and requests > 1 else 0
        self._waits[size] = self._learnt + 1 + min(_LONGEST_REST, vain // _IN_VAIN)

    def _costs(self, requests: int) -> Costs:
        plain = self.steps.plain(requests) or 1.0
        return Costs(
            requests, plain, self.steps.added(requests, plain), lambda together: self._model_step(together, plain)
        )

    def _model_step(self, together: int, plain: float) -> float:
        """Seconds that a step of the draft model takes."""
        known = self.model_steps.plain(together) or self.model_steps.plain(1)
        if self._share is None:
            return _MODEL_SHARE * plain if known is None else known
        return max(known or 0.0, self._share * plain)

    def _probe(self, offers: Sequence[Offer], costs: Costs, budget: int) -> list[int]:
        """A short draft of the most promising request, if it could pay at all and the purse has what it costs."""
        lengths = [0] * len(offers)
        due = {by_model: gap.over(self._learnt) for by_model, gap in self._gaps.items()}
        found = [i for i, offer in enumerate(offers) if offer.survival and due[offer.by_model]]
        if not found or budget < 1:
            return lengths
        i = max(found, key=lambda i: offers[i].survival[0])
        offer = offers[i]
        sure = Offer([1.0] * len(offer.survival), offer.by_model, offer.catching_up)
        if not any(best_lengths([sure], costs, budget)):
            return lengths
        count = min(PROBE, len(offer.survival), budget)
        seconds = costs.added(count)
        if offer.by_model:
            seconds += count * costs.model_step(1) + offer.behind
        if self.purse * costs.plain >= seconds:
            lengths[i] = count
            self._gaps[offer.by_model].begin(self._learnt)
        return lengths
