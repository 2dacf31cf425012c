"""What crosses the line between the scheduler and a runner, and nothing else does.

The scheduler builds a `StepBatch`; a `Runner` (the real model, or the simulated one) computes it and answers with one
`StepOutput` for each slice, in the same order. Pure data: no torch here, so the core can be tested without a model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from argosy_api.params import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceSlice:
    """One request's share of a step: tokens `start .. start + len(tokens)` of its known tokens.

    Before the step the KV cache holds positions `0 .. start`; after it, `0 .. start + len(tokens)`.
    """

    request_id: str
    tokens: Sequence[int]
    """Token ids to compute, at positions `start`, `start + 1`, ..."""
    start: int
    """Position of the first token; equals the number of tokens computed before this step."""
    block_table: Sequence[int]
    """Physical block numbers; position p lives in block_table[p // block_size], slot p % block_size."""
    sample: bool
    """Whether the row of the last token is sampled (the slice reaches the end of the known tokens)."""
    params: SamplingParams
    prompt_targets: Sequence[int] = ()
    """For prompt log-probabilities: the token that follows each row, for the first len(prompt_targets) rows."""


@dataclass(frozen=True, slots=True)
class StepBatch:
    """All slices of one step; sum(len(s.tokens)) is at most the step's token budget."""

    slices: Sequence[SequenceSlice]

    @property
    def num_tokens(self) -> int:
        """Tokens that this step computes."""
        return sum(len(s.tokens) for s in self.slices)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural-log probability of a token under the raw (unprocessed) logits, and the best alternatives."""

    token: int
    logprob: float
    top: Sequence[tuple[int, float]] = ()
    """(token id, logprob), best first; as many as asked for."""


@dataclass(frozen=True, slots=True)
class StepOutput:
    """Answer for one slice. `token` is None when nothing was sampled, or when `error` says why it could not be."""

    token: int | None = None
    logprob: TokenLogprob | None = None
    prompt_logprobs: Sequence[TokenLogprob] = field(default_factory=tuple)
    error: str | None = None
    """A fault of this request alone (NaN logits): it is ended with INTERNAL, the others go on."""


class Runner(Protocol):
    """Computes steps. Owned and called by the engine thread only."""

    def execute(self, batch: StepBatch) -> list[StepOutput]:
        """Compute a step; one output for each slice, in order. Writes the KV of all its tokens."""
        ...
