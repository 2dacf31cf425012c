"""Steps that a device computes beside the host: launched without waiting for anything, and asked for later.

What the host must know of a step, tokens, marks and log-probabilities, is copied behind it. The next step takes its
tokens on the device (`last_tokens.py`). For a few rows the device cannot be sure of the token (`sampling/together.py`:
a nucleus of very many tokens). That shows when the step is asked for. Where another token is right, the row that the
next step, which is out by then, has computed after it is computed again, before anything is launched behind that step.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from argosy_worker.arrays import sent
from argosy_worker.compute.coming import Coming
from argosy_worker.compute.last_tokens import LastTokens
from argosy_worker.compute.runner import Computed, Told, answers, kept, sound
from argosy_worker.core.batch import PLACEHOLDER, Finished, SequenceSlice, StepOutput, TokenLogprob
from argosy_worker.sampling import together, verified
from argosy_worker.sampling.contract import Picked
from argosy_worker.sampling.sampler import Scores, listed, logprobs, scores


def waits(slices: Sequence[SequenceSlice]) -> bool:
    """Whether the host must wait for such a step: rows of prompts are told, or summed up, by it."""
    return any(s.pool is not None or s.prompt_targets for s in slices)


class Steps:
    """Launches a runner's steps. Owned by one thread, in torch's inference mode."""

    def __init__(self, compute: Callable[[Sequence[SequenceSlice]], Computed], device: torch.device) -> None:
        """`compute` launches layers and head, and waits for nothing; it asks `last` for the tokens."""
        self.compute, self.device = compute, device
        self.last = LastTokens(device)
        self._latest: Out | None = None

    def launch(self, slices: Sequence[SequenceSlice]) -> "Out":
        """Begin a step."""
        out = Out(self, slices, before=self._latest)
        self._latest = out
        self.last.note(slices, out.tokens)
        return out

    def at_once(self, slices: Sequence[SequenceSlice], compute: Callable[[], list[StepOutput]]) -> Finished:
        """A step that the host waits for."""
        if self._latest is not None:
            self._latest.resolve()  # what follows may have no token that is not sure
            self._latest = None
        outputs = compute()
        known = {s.request_id: o.tokens[-1] for s, o in zip(slices, outputs, strict=True) if o.tokens and not s.draft}
        self.last.note_known(known)
        return Finished(outputs)

    def correct(self, step: "Out", tokens: dict[str, int]) -> None:
        """Of a step other tokens are right than those that the device had."""
        if self._latest is step:
            self.last.correct(list(tokens), sent(np.array([*tokens.values()], dtype=np.int64), self.device))
        elif self._latest is not None and self._latest.before is step:
            self._latest.correct(tokens)


class Out:
    """A step that is out."""

    def __init__(self, steps: Steps, slices: Sequence[SequenceSlice], before: "Out | None" = None) -> None:
        """Launches it. `before`: the step whose tokens its placeholders stand for."""
        self._steps, self._slices, self.before = steps, slices, before
        if before is not None:
            before.before = None  # or each step would hold all that were before
        _, logits, self._rows, marks = steps.compute(slices)
        self._tops = [s.params.logprobs for s in slices for _ in s.sample_rows]
        self._logits: tuple[Tensor, Tensor] | None = None  # as rows want them, and raw: where tokens may be drawn anew
        self._scores: tuple[Coming, ...] = ()
        self._again: tuple[list[int], Out] | None = None
        self._outputs: list[StepOutput] | None = None
        if logits is None:
            self.tokens = torch.empty(0, dtype=torch.int64, device=steps.device)
            self._told = None if marks is None else Coming(marks)
            return
        drawn = together.begin(logits, self._rows)
        self.tokens = drawn.tokens
        """int64 [rows that are sampled], on the device."""
        guesses = verified.guesses(slices, self._rows)
        right = None if guesses is None else verified.right(drawn.tokens, sent(guesses, steps.device))
        self._told = Coming(together.packed(drawn, marks, right))
        if not all(together.surely(row.params, logits.shape[-1]) for row in self._rows):
            self._logits = drawn.logits, logits
        if asked := self._asked:
            at = sent(np.array(asked), steps.device)
            most = max(self._tops[i] or 0 for i in asked)
            found = scores(logits.index_select(0, at), drawn.tokens.index_select(0, at), most)
            self._scores = tuple(Coming(part) for part in found)

    @property
    def _asked(self) -> list[int]:
        """Rows whose log-probabilities are wanted."""
        return [i for i, top in enumerate(self._tops) if top is not None]

    def result(self) -> list[StepOutput]:
        """Wait for the step; one output for each slice, in order."""
        with torch.inference_mode():
            return self.resolve()

    def resolve(self) -> list[StepOutput]:
        """The same; what was launched behind it gets other tokens where these are right."""
        if self._outputs is None:
            outputs, changed = self._read()
            if self._again is not None:
                places, out = self._again
                found, more = out._read()  # noqa: SLF001  # of the same class
                for place, output in zip(places, found, strict=True):
                    outputs[place] = output
                    changed.pop(self._slices[place].request_id, None)
                changed |= more
            self._outputs = outputs
            if changed:
                self._steps.correct(self, changed)
        return self._outputs

    def correct(self, tokens: dict[str, int]) -> None:
        """Compute the slices again whose placeholders stand for these."""
        places = [i for i, s in enumerate(self._slices) if s.tokens[0] == PLACEHOLDER and s.request_id in tokens]
        if places:
            chosen = [self._slices[i] for i in places]
            again = [replace(s, tokens=(tokens[s.request_id], *s.tokens[1:])) for s in chosen]
            out = Out(self._steps, again)
            self._again = places, out
            self._steps.last.correct([s.request_id for s in again], out.tokens)

    def _read(self) -> tuple[list[StepOutput], dict[str, int]]:
        """Outputs, and the requests whose token is another one than the device had."""
        numbers = [] if self._told is None else self._told.here().tolist()
        drafts = sum(s.draft > 0 for s in self._slices)
        right, numbers = iter(numbers[len(numbers) - drafts :]), numbers[: len(numbers) - drafts]
        changed: list[int] = []
        picked = Picked([], [], [bool(mark) for mark in numbers])
        if self._rows:
            picked, changed = together.told(self._logits[0] if self._logits else None, self._rows, numbers)
        fine = sound(self._slices, picked)
        counts = [next(right) + 1 if s.draft else len(s.sample_rows) for s in self._slices]
        if changed:
            counts = kept(self._slices, self._rows, picked.tokens)
        told = Told(picked.tokens, counts, self._logprobs(picked.tokens, changed), [()] * len(fine))
        outputs = answers(self._slices, self._rows, fine, told)
        owners = [s for s in self._slices for _ in s.sample_rows]
        # nothing that is out by now follows a draft
        others = {owners[i].request_id: picked.tokens[i] for i in changed if not owners[i].draft}
        return outputs, others

    def _logprobs(self, tokens: Sequence[int], changed: Sequence[int]) -> list[TokenLogprob | None]:
        found: list[TokenLogprob | None] = [None] * len(tokens)
        if asked := self._asked:
            tops = [self._tops[i] or 0 for i in asked]
            told = Scores(*(part.here() for part in self._scores))
            for i, score in zip(asked, listed(told, [tokens[i] for i in asked], tops), strict=True):
                found[i] = score
        for i in changed:
            if self._logits is not None and found[i] is not None:
                found[i] = logprobs(self._logits[1][i : i + 1], [tokens[i]], [self._tops[i] or 0])[0]
        return found
