"""What crosses the line between the scheduler and a runner, and nothing else does.

The scheduler builds a `StepBatch`; a `Runner` (the real model, or the simulated one) launches it and later hands over
one `StepOutput` for each slice, in the same order. Pure data: no torch here, so the core can be tested without a model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from argosy_api.params import SamplingParams
from argosy_worker.core.host import Move
from argosy_worker.core.pool import Pool
from argosy_worker.core.rules import Counts, TokenRules

PLACEHOLDER = -1
"""Stands in `SequenceSlice.tokens` for the token that the step launched just before samples for the same request, and
that is not known here yet. At most the first token of a slice is one, and only where the scheduler ran while that step
was out."""


class Adapter(Protocol):
    """What is added to the model's linears for some requests. Runners know more of those that they were made for."""

    @property
    def digest(self) -> str:
        """Of all that decides what it adds: hex, and equal for equal ones."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceSlice:
    """One request's share of a step: tokens at positions `start .. start + len(tokens)`.

    Before the step the KV cache holds positions `0 .. start`; after it, `0 .. start + len(tokens)`. A slice owns its
    data: nothing in it changes while the step is out, whatever the scheduler does meanwhile. (`rules` reads the known
    tokens, to which more may come; it looks at those before `start` only.)
    """

    request_id: str
    tokens: Sequence[int]
    """Token ids to compute, at positions `start`, `start + 1`, ...; the last `draft` of them are only proposed."""
    start: int
    """Position of the first token; equals the number of tokens computed before this step."""
    table: Sequence[int]
    """Physical block numbers; position p lives in table[p // block_size], slot p % block_size. Blocks that no row
    of the slice reads, since they are out of every layer's window, may be the null block."""
    sample_rows: range
    """Rows (indices into `tokens`) after which a token is sampled: none while the slice does not reach the end of the
    known tokens, else the row of the last known token and those of the draft."""
    params: SamplingParams
    draft: int = 0
    """Proposed tokens at the end of `tokens`. `accepted` says which of the sampled ones count."""
    barred: Sequence[int] = ()
    """Token ids that may not be sampled in the first `barred_rows` of `sample_rows`: they would end the request before
    its min_tokens."""
    barred_rows: int = 0
    rules: TokenRules | None = None
    """What the parameters say about single tokens; None where that is nothing. Of the sampler alone."""
    adapter: Adapter | None = None
    """Computes the rows together with the model."""
    pool: Pool | None = None
    """Takes the rows that make the prompt's embedding. A step that is computed again hands them over again."""
    prompt_targets: Sequence[int] = ()
    """For prompt log-probabilities: the token that follows each row, for the first len(prompt_targets) rows."""

    def barred_at(self, row: int) -> Sequence[int]:
        """Token ids that may not be sampled after `row`, one of `sample_rows`."""
        return self.barred if row - self.sample_rows.start < self.barred_rows else ()

    def banned_at(self, row: int) -> Sequence[int]:
        """Token ids that may not be sampled after `row`, one of `sample_rows`, for whatever reason."""
        barred, rules = self.barred_at(row), self.rules
        if rules is None or not (rules.banned or rules.words):
            return barred
        return (*barred, *rules.banned, *rules.banned_after(self.start, self.tokens[: row + 1]))

    def open_at(self, row: int) -> bytes | None:
        """What a grammar lets follow after `row`, one of `sample_rows` (`core.rules.Grammar.allowed`); None: all."""
        if self.rules is None or self.rules.grammar is None:
            return None
        known = min(row + 1, len(self.tokens) - self.draft)
        return self.rules.open_after(self.start, self.tokens[:known], self.tokens[known : row + 1])

    def counts_at(self, row: int) -> Counts | None:
        """How often tokens occur before the one that is sampled after `row`; None where that does not matter."""
        if self.rules is None or not self.params.counts_tokens:
            return None
        return self.rules.counts_after(self.start, self.tokens[: row + 1])


@dataclass(frozen=True, slots=True)
class StepBatch:
    """All slices of one step; sum(len(s.tokens)) is at most the step's token budget."""

    slices: Sequence[SequenceSlice]
    moves: Sequence[Move] = ()
    """Made one after the other, before anything is computed."""

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


class Refusal(str):
    """An error that the request itself is the reason of."""

    __slots__ = ()


def stuck(piece: SequenceSlice) -> Refusal:
    """The error of a request whose parameters have left nothing to draw."""
    grammar = piece.rules.grammar if piece.rules is not None else None
    why = (grammar.problem if grammar is not None else "") or "no token is left that the other parameters allow, too"
    return Refusal(f"cannot be kept to after the answer's last token: {why}")


@dataclass(frozen=True, slots=True)
class StepOutput:
    """Answer for one slice. `tokens` is empty when nothing was sampled, or when `error` says why it could not be."""

    tokens: Sequence[int] = ()
    """What follows the known tokens: the draft's tokens as far as they are right, and one more. 1 to draft + 1."""
    logprobs: Sequence[TokenLogprob] = ()
    """One for each of `tokens`, when asked for."""
    prompt_logprobs: Sequence[TokenLogprob] = field(default_factory=tuple)
    error: str | None = None
    """A fault of this request alone (NaN logits): it is ended with INTERNAL, the others go on. A `Refusal` ends it with
    INVALID_ARGUMENT."""


def accepted(draft: Sequence[int], sampled: Sequence[int]) -> int:
    """How many of `sampled` count: `sampled[i]` was sampled after `draft[:i]`, so it counts while that was right.

    `sampled` has one token more than `draft`. The random number of a token depends on the seed and its position only,
    so the tokens that count are exactly those that would have been sampled one by one.
    """
    for i, token in enumerate(draft):
        if sampled[i] != token:
            return i + 1
    return len(sampled)


class RunnerBrokenError(Exception):
    """The runner computes nothing any more, whoever asks."""


class Pending(Protocol):
    """A step that is out."""

    def result(self) -> list[StepOutput]:
        """Wait for the step; one output for each slice, in order. Raises what the step raised."""
        ...


@dataclass(frozen=True, slots=True)
class Finished:
    """The `Pending` of a runner that computes at once."""

    outputs: list[StepOutput]

    def result(self) -> list[StepOutput]:
        """The outputs."""
        return self.outputs


@dataclass(frozen=True, slots=True)
class Failed:
    """The `Pending` of a step that could not even be launched."""

    error: BaseException

    def result(self) -> list[StepOutput]:
        """Raises it."""
        raise self.error


class Runner(Protocol):
    """Computes steps. Owned and called by the engine thread only."""

    def launch(self, batch: StepBatch) -> Pending:
        """Begin a step, which writes the KV of all its tokens. Steps are computed in the order of their launches.

        So a block that a step which is out still writes to may be handed on to the next one, or copied. A runner that
        is given a step while one is out replaces a `PLACEHOLDER` by the token that the one before samples for that
        request.
        """
        ...


def computes_beside(runner: Runner) -> bool:
    """Whether its steps are computed while the host goes on, so that the next one is to be launched meanwhile.

    Such a runner says so by `asynchronous`; most compute at once.
    """
    return getattr(runner, "asynchronous", False)


def prepares(runner: Runner) -> Callable[[], bool] | None:
    """What a runner can do for steps to come, while none is out: a little at each call, which says if there is more.

    Such a runner has a method `prepare`; most have nothing to prepare.
    """
    return getattr(runner, "prepare", None)


class BlockStore(Protocol):
    """What the blocks of a runner's cache hold, as bytes. Called by the engine thread only, between steps."""

    @property
    def layout(self) -> str:
        """What the bytes of a block mean; blocks can move between stores of equal layouts, and between no others."""
        ...

    @property
    def bytes_per_block(self) -> int:
        """Bytes of one exported block."""
        ...

    def export(self, block: int) -> bytes:
        """The content of a block. Raises InvalidArgumentError when there is no such block."""
        ...

    def export_host(self, slot: int) -> bytes:
        """The content of a slot in host memory, as `export` would give that of its block."""
        ...

    def move(self, moves: Sequence[Move]) -> None:
        """Copy blocks to slots and back, one after the other; all is copied on return."""
        ...

    def import_(self, block: int, content: bytes) -> None:
        """Put exported content into a block. Raises InvalidArgumentError when block or size is wrong."""
        ...


class CachedRunner(Runner, Protocol):
    """A runner, and what its cache holds."""

    @property
    def store(self) -> BlockStore:
        """Its cache's blocks."""
        ...
