"""The engine's drafter: joins who guesses, what is known of chances and costs, and the counts of what came of it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from argosy_api.faults import is_fault
from argosy_worker.core.batch import StepOutput
from argosy_worker.core.request import Request
from argosy_worker.core.scheduler import Step
from argosy_worker.speculation.acceptance import Kept, Prior, Rates, survival
from argosy_worker.speculation.config import Method, SpeculationConfig
from argosy_worker.speculation.control import Controller
from argosy_worker.speculation.draft_model import DraftModel, Spent
from argosy_worker.speculation.lengths import NOTHING, Offer
from argosy_worker.speculation.lookup import TokenIndex
from argosy_worker.speculation.recent import RecentTokens

log = logging.getLogger(__name__)

_LATEST = 0.02
_OF_REQUEST = {"trust": 3.0, "keep": 0.9}
_OF_WORKER = {"trust": 4.0, "keep": 0.99}


class Policy(Protocol):
    """Decides how much is tried: `control.Controller`, or a test."""

    saved: float

    def open_to(self, requests: int) -> bool:
        """Whether a step of so many requests may have drafts at all."""
        ...

    def lengths(self, offers: Sequence[Offer], budget: int) -> list[int]:
        """How many tokens to try of each request's offer."""
        ...

    def asks_model(self, requests: int, most: int) -> bool:
        """Whether drafts of a model are to be considered in a step of so many requests, `most` tokens for each."""
        ...

    def catching_up(self, rows: int, requests: int) -> float:
        """Seconds that the draft model needs for `rows` that it has not seen."""
        ...

    def learn(self, requests: int, drafted: int, right: int, seconds: float, *, spent: Spent, alone: bool) -> None:
        """What a step took, and how many of its drafted tokens were right."""
        ...


@dataclass(slots=True)
class _Guesses:
    """Of one request: where it can be looked up, and how often guesses were right."""

    index: TokenIndex
    looked_up: Rates
    modelled: Rates


@dataclass(slots=True)
class _Tried:
    """What was planned for one request when it was last asked for."""

    tokens: list[int] = field(default_factory=list)
    """Looked-up tokens; none where the draft model guesses."""
    kinds: Sequence[int] = ()
    """Class of each token."""
    by_model: bool = False
    survival: Sequence[float] = ()
    """Estimated for each token."""


class Counts(NamedTuple):
    """Of one step."""

    drafts: int = 0
    """Requests that had one."""
    drafted: int = 0
    """Tokens of all drafts."""
    accepted: int = 0
    """How many of them were right."""


class Speculator:
    """A `core.drafts.Drafter`. Owned by the engine's thread."""

    def __init__(
        self,
        config: SpeculationConfig,
        *,
        model: DraftModel | None = None,
        policy: Policy | None = None,
        share: bool = True,
    ) -> None:
        """`share`: whether a request may draw on what others of the same tenant were answered."""
        self.accepted_length = 0.0
        """Tokens of a draft that are right, mean of the latest."""
        self._config = config
        self._model = model if config.method in (Method.AUTO, Method.DRAFT) else None
        self._controller = Controller(model_share=None if self._model is None else self._model.share)
        self._policy: Policy = policy if policy is not None else self._controller
        self._recent = RecentTokens() if share and config.looks_up else None
        self._guesses: dict[Request, _Guesses] = {}
        self._looked_up = Rates(Prior(lambda match: match / (match + 2)), **_OF_WORKER)
        self._modelled = Rates(Prior(lambda _: 0.7), **_OF_WORKER)
        self._kept = {True: Kept(), False: Kept()}  # by model, or looked up
        self._tried: dict[Request, _Tried] = {}
        self._spent = Spent()

    @property
    def saved(self) -> float:
        """Seconds that drafts have saved, as far as can be told; less than 0 when they cost more."""
        return self._policy.saved

    # --- for the scheduler

    def plan(self, requests: Sequence[Request], most: Sequence[int], budget: int) -> Sequence[int]:
        """As the protocol says."""
        self._spent = Spent()
        nothing = [0] * len(requests)
        if self._config.method is Method.OFF or not any(most) or not self._policy.open_to(len(requests)):
            return nothing
        model = self._model
        if model is not None and not self._policy.asks_model(len(requests), self._config.max_draft):
            model = None
        if model is None and not self._config.looks_up:
            return nothing
        offers = [
            self._offer(request, min(limit, self._config.max_draft), len(requests), model)
            for request, limit in zip(requests, most, strict=True)
        ]
        return self._policy.lengths(offers, budget)

    def draft(self, requests: Sequence[Request], lengths: Sequence[int]) -> Sequence[Sequence[int]]:
        """As the protocol says."""
        tried = [self._tried.get(request) or _Tried() for request in requests]
        drafts = [t.tokens[:length] for t, length in zip(tried, lengths, strict=True)]
        asked = [length if t.by_model else 0 for t, length in zip(tried, lengths, strict=True)]
        if self._model is None or not any(asked):
            return drafts
        try:
            found, self._spent = self._model.draft(requests, asked, self._controller.model_steps)
        except BaseException as error:
            if not is_fault(error):
                raise
            log.exception("the draft model failed; this worker goes on without it")
            self._model = None
            return drafts
        return [made or draft for made, draft in zip(found, drafts, strict=True)]

    def hopes(self, requests: Sequence[Request]) -> bool:
        """As the protocol says: a draft model guesses always; what is looked up after the known tokens is looked at."""
        if self._config.method is Method.OFF or not requests or not self._policy.open_to(len(requests)):
            return False
        if self._model is not None and self._policy.asks_model(len(requests), self._config.max_draft):
            return True
        # the first token looked up is what the awaited one might be
        return any(
            len(self._look_up(request, self._of(request), 2).tokens) > 1
            for request in requests
            if request.most_draft > 1
        )

    def ended(self, request: Request) -> None:
        """As the protocol says."""
        if self._guesses.pop(request, None) is not None and self._recent is not None:
            self._recent.add(request.root, request.prompt, request.tokens[len(request.prompt) :])
        self._tried.pop(request, None)
        if self._model is not None:
            self._model.ended(request)

    # --- for the engine

    def learn(self, step: Step, outputs: Sequence[StepOutput], seconds: float) -> Counts:
        """A step was computed, in `seconds` with all that was done to make it."""
        drafts = drafted = right = 0
        generating = step.batch.slices[: step.generating]
        for request, piece, output in zip(step.requests, generating, outputs, strict=False):
            if piece.draft and output.error is None:
                count = len(output.tokens) - 1
                drafts, drafted, right = drafts + 1, drafted + piece.draft, right + count
                self.accepted_length += _LATEST * (count - self.accepted_length)
                self._note(request, piece.draft, count)
        if step.generating:
            alone = step.generating == len(step.batch.slices)
            self._policy.learn(step.generating, drafted, right, seconds, spent=self._spent, alone=alone)
        self._spent = Spent()
        return Counts(drafts, drafted, right)

    # --- how

    def _offer(self, request: Request, most: int, together: int, model: DraftModel | None) -> Offer:
        if most <= 0:
            return NOTHING
        guesses = self._of(request)
        looked_up = self._look_up(request, guesses, most)
        rows = model.behind(request) if model is not None else None
        if rows is None and not looked_up.tokens:
            return NOTHING
        places = range(most)
        by_model = rows is not None and not (
            looked_up.tokens and guesses.looked_up.of(looked_up.kinds[0]) >= guesses.modelled.of(0)
        )
        if by_model and rows is not None:
            tried = _Tried(kinds=places, by_model=True, survival=survival(guesses.modelled, places))
            behind = self._policy.catching_up(rows - 1, together)
            share = behind / max(1.0, request.most_draft / 2)  # it serves half the tokens that may still come
        else:
            tried, behind, share = looked_up, 0.0, 0.0
            tried.survival = survival(guesses.looked_up, tried.kinds)
        self._tried[request] = tried
        kept = self._kept[by_model].share
        return Offer([kept * chance for chance in tried.survival], by_model, catching_up=share, behind=behind)

    def _of(self, request: Request) -> _Guesses:
        guesses = self._guesses.get(request)
        if guesses is None:
            guesses = self._guesses[request] = _Guesses(
                TokenIndex(request.tokens), Rates(self._looked_up, **_OF_REQUEST), Rates(self._modelled, **_OF_REQUEST)
            )
        return guesses

    def _look_up(self, request: Request, guesses: _Guesses, most: int) -> _Tried:
        if not self._config.looks_up or not guesses.index.catch_up():
            return _Tried()
        place, length = guesses.index.find(request.tokens)
        tokens = guesses.index.following(place, most) if length else []
        if self._recent is not None:
            others, better = self._recent.find(request.root, request.tokens, most)
            if better > length:
                tokens, length = others, better
        return _Tried(tokens, range(length, length + len(tokens)))

    def _note(self, request: Request, drafted: int, right: int) -> None:
        tried, guesses = self._tried.get(request), self._guesses.get(request)
        if tried is None or guesses is None:
            return
        self._kept[tried.by_model].add(sum(tried.survival[:drafted]), right)
        worker = self._modelled if tried.by_model else self._looked_up
        own = guesses.modelled if tried.by_model else guesses.looked_up
        for place, kind in enumerate(tried.kinds[: min(right + 1, drafted)]):
            own.add(kind, right=place < right)
            worker.add(kind, right=place < right)
