"""Runs steps of the real model: batch tensors in, tokens and log-probabilities out."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from argosy_worker.compute.attention.backend import AttentionBackend
from argosy_worker.compute.config import DecoderConfig
from argosy_worker.compute.decoder import Decoder
from argosy_worker.core.batch import BlockStore, Finished, SequenceSlice, StepBatch, StepOutput, TokenLogprob, accepted
from argosy_worker.core.layout import make_layout
from argosy_worker.sampling.rows import row_of
from argosy_worker.sampling.sampler import TORCH, Sampler, logprobs

_LOGIT_ROWS = 64
"""Rows of logits held at once for prompt log-probabilities: 64 x 49,152 x 4 bytes = 12.6 MB."""
_PARALLEL_WORK = 200_000_000
_PARALLEL_WEIGHTS = 16_000_000
"""Multiply-adds of a layer in a step, and weights of a layer, from which on a step uses all threads. Handing a small
operation to a sleeping thread costs more than it saves: with SmolLM2-135M (3.5 million weights a layer) on 2 cores a
step of one row takes 18 ms with one thread and 30 with two, of 16 rows 52 and 70, of 32 rows 80 and 65."""
_FAULT = "the model computed a value that is no number for this request"


class TorchRunner:
    """A `Runner` over a decoder and its attention. Owned by one thread."""

    def __init__(
        self, decoder: Decoder, attention: AttentionBackend, *, threads: int, sampler: Sampler = TORCH
    ) -> None:
        self._decoder, self._attention, self._threads, self._sampler = decoder, attention, threads, sampler
        self.store: BlockStore = attention.cache

    def launch(self, batch: StepBatch) -> Finished:
        """Compute a step; one output for each slice, in order. Writes the KV of all its tokens."""
        slices = batch.slices
        with torch.inference_mode():
            self.store.move(batch.moves)
            if not slices:
                return Finished([])
            torch.set_num_threads(threads_for(self._decoder.config, batch.num_tokens, self._threads))
            hidden = self._forward(slices)
            sound = _sound_slices(hidden, slices)
            prompts = self._prompt_logprobs(hidden, slices, sound)
            return Finished(self._sample(hidden, slices, sound, prompts))

    def _forward(self, slices: Sequence[SequenceSlice]) -> Tensor:
        device = self._decoder.device
        layout = make_layout(slices, self._attention.cache.spec.block_size)
        self._attention.prepare(layout)
        tokens = np.concatenate([np.asarray(s.tokens, dtype=np.int64) for s in slices])
        positions = torch.from_numpy(layout.positions).to(device)
        return self._decoder.hidden(torch.from_numpy(tokens).to(device), positions, self._attention)

    def _prompt_logprobs(
        self, hidden: Tensor, slices: Sequence[SequenceSlice], sound: Sequence[bool]
    ) -> list[tuple[TokenLogprob, ...]]:
        found: list[tuple[TokenLogprob, ...]] = []
        first = 0
        for s, ok in zip(slices, sound, strict=True):
            answers: list[TokenLogprob] = []
            targets = s.prompt_targets if ok else ()
            for begin in range(0, len(targets), _LOGIT_ROWS):
                part = targets[begin : begin + _LOGIT_ROWS]
                logits = self._decoder.logits(hidden[first + begin : first + begin + len(part)])
                answers += logprobs(logits, part, [s.params.prompt_logprobs or 0] * len(part))
            found.append(tuple(answers))
            first += len(s.tokens)
        return found

    def _sample(
        self,
        hidden: Tensor,
        slices: Sequence[SequenceSlice],
        sound: Sequence[bool],
        prompts: Sequence[tuple[TokenLogprob, ...]],
    ) -> list[StepOutput]:
        outputs = [
            StepOutput(prompt_logprobs=prompt) if ok else StepOutput(error=_FAULT)
            for prompt, ok in zip(prompts, sound, strict=True)
        ]
        first = np.cumsum([0, *(len(s.tokens) for s in slices)])
        wanted = [(i, row) for i, s in enumerate(slices) if sound[i] for row in s.sample_rows]
        if not wanted:
            return outputs
        rows = torch.from_numpy(np.array([first[i] + row for i, row in wanted])).to(hidden.device)
        logits = self._decoder.logits(hidden.index_select(0, rows))
        fine = self._sampler.healthy(logits)
        faulty = {i for (i, _), ok in zip(wanted, fine, strict=True) if not ok}
        for i in faulty:
            outputs[i] = StepOutput(error=_FAULT)
        if faulty:
            keep = [i not in faulty for i, _ in wanted]
            logits = logits[torch.tensor(keep, device=logits.device)]
            wanted = [pair for pair, kept in zip(wanted, keep, strict=True) if kept]
        if not wanted:
            return outputs
        tokens = self._sampler.pick(logits, [row_of(slices[i], row) for i, row in wanted])
        scores = _sampled_logprobs(logits, [slices[i] for i, _ in wanted], tokens)
        at = 0
        for i, s in enumerate(slices):
            if i in faulty or not sound[i] or not s.sample_rows:
                continue
            picked, end = tokens[at : at + len(s.sample_rows)], at + len(s.sample_rows)
            count = accepted(s.tokens[len(s.tokens) - s.draft :], picked)
            found = [score for score in scores[at : at + count] if score is not None]
            outputs[i] = StepOutput(picked[:count], found, prompts[i])
            at = end
        return outputs


def threads_for(config: DecoderConfig, rows: int, threads: int) -> int:
    """Threads that torch takes for a step of so many rows; at most `threads`."""
    weights = config.layer_weights
    return threads if weights >= _PARALLEL_WEIGHTS or rows * weights >= _PARALLEL_WORK else 1


def _sound_slices(hidden: Tensor, slices: Sequence[SequenceSlice]) -> list[bool]:
    """Whether all rows of each slice are finite."""
    rows: list[bool] = hidden.float().sum(-1).isfinite().tolist()
    if all(rows):
        return [True] * len(slices)
    found, first = [], 0
    for s in slices:
        found.append(all(rows[first : first + len(s.tokens)]))
        first += len(s.tokens)
    return found


def _sampled_logprobs(
    logits: Tensor, slices: Sequence[SequenceSlice], tokens: Sequence[int]
) -> list[TokenLogprob | None]:
    asked = [i for i, s in enumerate(slices) if s.params.logprobs is not None]
    found: list[TokenLogprob | None] = [None] * len(slices)
    if asked:
        chosen = logits if len(asked) == len(slices) else logits[torch.tensor(asked, device=logits.device)]
        scores = logprobs(chosen, [tokens[i] for i in asked], [slices[i].params.logprobs or 0 for i in asked])
        for i, score in zip(asked, scores, strict=True):
            found[i] = score
    return found
