"""Runs steps of a real model: slices in, tokens and log-probabilities out. No torch."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from argosy_worker.arrays import Array, like
from argosy_worker.compute.pooling import Floats
from argosy_worker.core.batch import (
    BlockStore,
    Finished,
    Pending,
    SequenceSlice,
    StepBatch,
    StepOutput,
    TokenLogprob,
    accepted,
    stuck,
)
from argosy_worker.sampling.contract import Picked, Sampler, told
from argosy_worker.sampling.rows import Row, row_of, tried

_LOGIT_ROWS = 64
"""Rows of logits held at once for prompt log-probabilities: 64 x 49,152 x 4 bytes = 12.6 MB."""
FAULT = "the model computed a value that is no number for this request"


class Computed(NamedTuple):
    """Of a step, before tokens are picked."""

    hidden: Array
    """[rows of the step, hidden], valid until the next step."""
    logits: Array | None
    """fp32 [n, vocab] of the rows after which a token is sampled; None where there are none."""
    rows: list[Row]
    """How each of them is to be sampled."""
    marks: Array | None
    """Whether each row of the step is finite, where the logits do not tell: bool [rows of the step]."""


class StepRunner(ABC):
    """A `Runner`, given how hidden states and logits are computed. Owned by one thread."""

    def __init__(self, store: BlockStore, sampler: Sampler) -> None:
        self.store = store
        self._sampler = sampler

    @abstractmethod
    def _hidden(self, slices: Sequence[SequenceSlice], rows: int) -> Array:
        """Compute all layers: [rows, hidden], one slice after another."""

    @abstractmethod
    def _sound(self, hidden: Array) -> Array:
        """Whether each row is finite: bool [rows], on their device."""

    @abstractmethod
    def _normed(self, hidden: Array) -> Floats:
        """Some rows [n, hidden] after the final norm: fp32 [n, hidden], of numpy."""

    @abstractmethod
    def _logits(self, hidden: Array) -> Array:
        """Of some rows [n, hidden]: fp32 [n, vocab], valid until the next call."""

    def launch(self, batch: StepBatch) -> Pending:
        """Compute a step; one output for each slice, in order. Writes the KV of all its tokens."""
        self.store.move(batch.moves)
        if not batch.slices:
            return Finished([])
        return Finished(self._answers(batch.slices, self._compute(batch.slices)))

    def _compute(self, slices: Sequence[SequenceSlice]) -> Computed:
        """Compute all layers, and the logits that tokens are picked from."""
        hidden = self._hidden(slices, sum(len(s.tokens) for s in slices))
        places: list[int] = []
        first = 0
        for s in slices:
            places += [first + row for row in s.sample_rows]
            first += len(s.tokens)
        # where all rows become logits, these tell: RMSNorm makes no finite row of one that is none
        pooled = any(s.pool is not None for s in slices)
        marks = None if len(places) == first and not pooled else self._sound(hidden)
        if not places:
            return Computed(hidden, None, [], marks)
        logits = self._logits(hidden if len(places) == first else hidden[like(hidden, np.array(places))])
        rows = [row_of(s, row, logits.shape[-1]) for s in slices for row in s.sample_rows]
        return Computed(hidden, logits, rows, marks)

    def _answers(self, slices: Sequence[SequenceSlice], computed: Computed) -> list[StepOutput]:
        """Pick tokens, and wait for them."""
        hidden, logits, rows, marks = computed
        picked = Picked([], [], told(marks)) if logits is None else self._sampler.sample(logits, rows, marks)
        fine = sound(slices, picked)
        scores = self._sampled_logprobs(logits, slices, fine, picked.tokens)
        prompts = self._prompt_logprobs(hidden, slices, fine)  # logits are valid until now
        self._pool(hidden, slices, fine)
        return answers(slices, rows, fine, Told(picked.tokens, kept(slices, rows, picked.tokens), scores, prompts))

    def _pool(self, hidden: Array, slices: Sequence[SequenceSlice], fine: Sequence[bool]) -> None:
        """Hand over the rows that make embeddings."""
        first = 0
        for s, ok in zip(slices, fine, strict=True):
            if s.pool is not None and ok:
                rows = s.pool.wanted(s.start, len(s.tokens))
                if rows:
                    s.pool.add(s.start + rows.start, self._normed(hidden[first + rows.start : first + rows.stop]))
            first += len(s.tokens)

    def _prompt_logprobs(
        self, hidden: Array, slices: Sequence[SequenceSlice], fine: Sequence[bool]
    ) -> list[tuple[TokenLogprob, ...]]:
        found: list[tuple[TokenLogprob, ...]] = []
        first = 0
        for s, ok in zip(slices, fine, strict=True):
            answers: list[TokenLogprob] = []
            targets = s.prompt_targets if ok else ()
            for begin in range(0, len(targets), _LOGIT_ROWS):
                part = targets[begin : begin + _LOGIT_ROWS]
                logits = self._logits(hidden[first + begin : first + begin + len(part)])
                answers += self._sampler.logprobs(logits, part, [s.params.prompt_logprobs or 0] * len(part))
            found.append(tuple(answers))
            first += len(s.tokens)
        return found

    def _sampled_logprobs(
        self, logits: Array | None, slices: Sequence[SequenceSlice], fine: Sequence[bool], tokens: Sequence[int]
    ) -> list[TokenLogprob | None]:
        """Of each row that was picked for, where its slice asks for it and is fine."""
        tops = [s.params.logprobs if ok else None for s, ok in zip(slices, fine, strict=True) for _ in s.sample_rows]
        asked = [i for i, top in enumerate(tops) if top is not None]
        found: list[TokenLogprob | None] = [None] * len(tops)
        if asked and logits is not None:
            chosen = logits if len(asked) == len(tops) else logits[like(logits, np.array(asked))]
            scores = self._sampler.logprobs(chosen, [tokens[i] for i in asked], [tops[i] or 0 for i in asked])
            for i, score in zip(asked, scores, strict=True):
                found[i] = score
        return found


def sound(slices: Sequence[SequenceSlice], picked: Picked) -> list[bool]:
    """Whether all rows of each slice are finite."""
    bounds = [0, *accumulate(len(s.sample_rows) for s in slices)]
    fine = [all(picked.fine[begin:end]) for begin, end in pairwise(bounds)]
    if picked.marks:
        ends = [0, *accumulate(len(s.tokens) for s in slices)]
        whole = [all(picked.marks[begin:end]) for begin, end in pairwise(ends)]
        fine = [ok and mark for ok, mark in zip(fine, whole, strict=True)]
    return fine


def kept(slices: Sequence[SequenceSlice], rows: Sequence[Row], tokens: Sequence[int]) -> list[int]:
    """How many of each slice's tokens count: those of its draft that are right, and one more.

    `tokens`: one for each row, one slice after another.
    """
    return [accepted(draft, tokens[begin : begin + most]) if most else 0 for begin, most, draft in tried(slices, rows)]


class Told(NamedTuple):
    """What the host knows of a step."""

    tokens: Sequence[int]
    """Of each sampled row, one slice after another."""
    kept: Sequence[int]
    """How many of each slice's tokens count."""
    scores: Sequence[TokenLogprob | None]
    """Likewise."""
    prompts: Sequence[Sequence[TokenLogprob]]
    """Of each slice."""


def answers(slices: Sequence[SequenceSlice], rows: Sequence[Row], fine: Sequence[bool], step: Told) -> list[StepOutput]:
    """One for each slice."""
    outputs: list[StepOutput] = []
    end, (tokens, counts, scores, prompts) = 0, step
    for s, ok, count, prompt in zip(slices, fine, counts, prompts, strict=True):
        begin, end = end, end + len(s.sample_rows)
        if not ok:
            outputs.append(StepOutput(error=FAULT))
        elif s.sample_rows and rows[begin].stuck:
            outputs.append(StepOutput(error=stuck(s)))
        else:
            found = [score for score in scores[begin : begin + count] if score is not None]
            outputs.append(StepOutput(tokens[begin : begin + count], found, prompt))
    return outputs
