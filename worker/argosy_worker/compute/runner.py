"""Runs steps of a real model: slices in, tokens and log-probabilities out. No torch."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from argosy_worker.arrays import Array, like
from argosy_worker.core.batch import (
    BlockStore,
    Finished,
    SequenceSlice,
    StepBatch,
    StepOutput,
    TokenLogprob,
    accepted,
    stuck,
)
from argosy_worker.sampling.contract import Sampler
from argosy_worker.sampling.rows import row_of

_LOGIT_ROWS = 64
"""Rows of logits held at once for prompt log-probabilities: 64 x 49,152 x 4 bytes = 12.6 MB."""
_FAULT = "the model computed a value that is no number for this request"


class StepRunner(ABC):
    """A `Runner`, given how hidden states and logits are computed. Owned by one thread."""

    def __init__(self, store: BlockStore, sampler: Sampler) -> None:
        self.store = store
        self._sampler = sampler

    @abstractmethod
    def _hidden(self, slices: Sequence[SequenceSlice], rows: int) -> Array:
        """Compute all layers: [rows, hidden], one slice after another."""

    @abstractmethod
    def _sound(self, hidden: Array) -> list[bool]:
        """Whether each row is finite."""

    @abstractmethod
    def _logits(self, hidden: Array) -> Array:
        """Of some rows [n, hidden]: fp32 [n, vocab], valid until the next call."""

    def launch(self, batch: StepBatch) -> Finished:
        """Compute a step; one output for each slice, in order. Writes the KV of all its tokens."""
        slices = batch.slices
        self.store.move(batch.moves)
        if not slices:
            return Finished([])
        hidden = self._hidden(slices, batch.num_tokens)
        # where all rows become logits, these tell: RMSNorm makes no finite row of one that is none
        alone = sum(len(s.sample_rows) for s in slices) == batch.num_tokens
        sound = [True] * len(slices) if alone else self._sound_slices(hidden, slices)
        prompts = self._prompt_logprobs(hidden, slices, sound)
        return Finished(self._sample(hidden, slices, sound, prompts))

    def _sound_slices(self, hidden: Array, slices: Sequence[SequenceSlice]) -> list[bool]:
        """Whether all rows of each slice are finite."""
        rows = self._sound(hidden)
        if all(rows):
            return [True] * len(slices)
        found, first = [], 0
        for s in slices:
            found.append(all(rows[first : first + len(s.tokens)]))
            first += len(s.tokens)
        return found

    def _prompt_logprobs(
        self, hidden: Array, slices: Sequence[SequenceSlice], sound: Sequence[bool]
    ) -> list[tuple[TokenLogprob, ...]]:
        found: list[tuple[TokenLogprob, ...]] = []
        first = 0
        for s, ok in zip(slices, sound, strict=True):
            answers: list[TokenLogprob] = []
            targets = s.prompt_targets if ok else ()
            for begin in range(0, len(targets), _LOGIT_ROWS):
                part = targets[begin : begin + _LOGIT_ROWS]
                logits = self._logits(hidden[first + begin : first + begin + len(part)])
                answers += self._sampler.logprobs(logits, part, [s.params.prompt_logprobs or 0] * len(part))
            found.append(tuple(answers))
            first += len(s.tokens)
        return found

    def _sample(
        self,
        hidden: Array,
        slices: Sequence[SequenceSlice],
        sound: Sequence[bool],
        prompts: Sequence[tuple[TokenLogprob, ...]],
    ) -> list[StepOutput]:
        outputs = [
            StepOutput(prompt_logprobs=prompt) if ok else StepOutput(error=_FAULT)
            for prompt, ok in zip(prompts, sound, strict=True)
        ]
        wanted: list[tuple[int, int]] = []
        places: list[int] = []
        first = 0
        for i, s in enumerate(slices):
            if sound[i]:
                wanted += [(i, row) for row in s.sample_rows]
                places += [first + row for row in s.sample_rows]
            first += len(s.tokens)
        if not wanted:
            return outputs
        logits = self._logits(hidden if len(places) == first else hidden[like(hidden, np.array(places))])
        fine = self._sampler.healthy(logits)
        faulty = {i for (i, _), ok in zip(wanted, fine, strict=True) if not ok}
        if faulty:
            for i in faulty:
                outputs[i] = StepOutput(error=_FAULT)
            kept = [place for place, (i, _) in enumerate(wanted) if i not in faulty]
            logits, wanted = logits[like(logits, np.array(kept, dtype=np.int64))], [wanted[place] for place in kept]
        if not wanted:
            return outputs
        rows = [row_of(slices[i], row, logits.shape[-1]) for i, row in wanted]
        tokens = self._sampler.pick(logits, rows)
        scores = self._sampled_logprobs(logits, [slices[i] for i, _ in wanted], tokens)
        at = 0
        for i, s in enumerate(slices):
            if i in faulty or not sound[i] or not s.sample_rows:
                continue
            picked, end = tokens[at : at + len(s.sample_rows)], at + len(s.sample_rows)
            most = next((n for n, row in enumerate(rows[at:end]) if row.stuck), len(picked))
            if most == 0:
                outputs[i], at = StepOutput(error=stuck(s)), end
                continue
            draft = s.tokens[len(s.tokens) - s.draft :]
            count = accepted(draft[: most - 1], picked[:most])
            found = [score for score in scores[at : at + count] if score is not None]
            outputs[i] = StepOutput(picked[:count], found, prompts[i])
            at = end
        return outputs

    def _sampled_logprobs(
        self, logits: Array, slices: Sequence[SequenceSlice], tokens: Sequence[int]
    ) -> list[TokenLogprob | None]:
        asked = [i for i, s in enumerate(slices) if s.params.logprobs is not None]
        found: list[TokenLogprob | None] = [None] * len(slices)
        if asked:
            chosen = logits if len(asked) == len(slices) else logits[like(logits, np.array(asked))]
            tops = [slices[i].params.logprobs or 0 for i in asked]
            scores = self._sampler.logprobs(chosen, [tokens[i] for i in asked], tops)
            for i, score in zip(asked, scores, strict=True):
                found[i] = score
        return found
