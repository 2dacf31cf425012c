"""One request as the scheduler sees it: known tokens, computed tokens, a block table, and when it ends.

There are no phases. `computed` tokens must catch up with the known ones (prompt + output); prefill, chunks, prefix
hits, preemption and decoding are all arithmetic on these two numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from argosy_api.blocks import BlockId, block_ids, next_id
from argosy_api.params import SamplingParams
from argosy_worker.core.batch import SequenceSlice, TokenLogprob


class Finish(StrEnum):
    """Why a request ended."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


@dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """State of one request inside the engine thread."""

    request_id: str
    prompt: Sequence[int]
    params: SamplingParams
    root: BlockId
    """Id before the first block: model fingerprint and the tenant's salt."""
    block_size: int
    arrival: float
    """Monotonic seconds."""
    max_model_len: int
    eos_token_ids: frozenset[int] = frozenset()

    tokens: list[int] = field(init=False)
    """Known tokens: prompt, then output."""
    computed: int = field(init=False, default=0)
    """How many of `tokens` have their keys and values in the cache."""
    table: list[int] = field(init=False, default_factory=list)
    """Physical blocks; position p is in table[p // block_size]."""
    stored: int = field(init=False, default=0)
    """Leading blocks of `table` whose ids the pool was told (or that came from it)."""
    ids: list[BlockId] = field(init=False)
    """Ids of the full blocks of `tokens`; grows with the output."""
    likely_hit: int = field(init=False, default=0)
    """Leading blocks that were known when last looked, while waiting: for the order of the line only."""
    cached_tokens: int = field(init=False, default=0)
    """Prompt tokens found in the prefix cache at the first admission."""
    prompt_logprobs: list[TokenLogprob] = field(init=False, default_factory=list)
    preemptions: int = field(init=False, default=0)
    admitted_at: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt)
        self.ids = block_ids(self.root, self.tokens, self.block_size)

    # --- arithmetic

    @property
    def remaining(self) -> int:
        """Known tokens not yet computed. 1 for a request that generates, once its prompt is done."""
        return len(self.tokens) - self.computed

    @property
    def generated(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - len(self.prompt)

    @property
    def decoding(self) -> bool:
        """Whether all but the newest generated token is computed."""
        return self.remaining == 1 and len(self.tokens) > len(self.prompt)

    @property
    def blocks_wanted(self) -> int:
        """Blocks that all known tokens need."""
        return -(-len(self.tokens) // self.block_size)

    @property
    def most_blocks(self) -> int:
        """Blocks at its longest. The last generated token is never computed, so it needs no slot."""
        longest = min(len(self.prompt) + self.params.max_tokens, self.max_model_len)
        return -(-(longest - 1) // self.block_size)

    @property
    def lost_if_preempted(self) -> int:
        """Computed tokens that are in no stored block, so that a preemption surely costs their recomputation."""
        return max(0, self.computed - self.stored * self.block_size)

    @property
    def wants_prompt_rows(self) -> bool:
        """Whether every prompt row must still be computed, so that a prefix hit would lose log-probabilities."""
        return self.params.prompt_logprobs is not None and len(self.prompt_logprobs) < len(self.prompt) - 1

    def usable_ids(self) -> Sequence[BlockId]:
        """Ids that a prefix hit may cover: whole blocks, and never the last known token, whose row is to be sampled."""
        if self.wants_prompt_rows:
            return ()
        return self.ids[: (len(self.tokens) - 1) // self.block_size]

    # --- changes

    def next_slice(self, count: int) -> SequenceSlice:
        """The next `count` known tokens as a share of a step.

        Lists are handed over uncopied: the runner returns before the scheduler touches them again.
        """
        end = self.computed + count
        targets: Sequence[int] = ()
        if self.wants_prompt_rows:
            targets = self.prompt[self.computed + 1 : end + 1]
        return SequenceSlice(
            request_id=self.request_id,
            tokens=self.tokens[self.computed : end],
            start=self.computed,
            block_table=self.table,
            sample=end == len(self.tokens),
            params=self.params,
            prompt_targets=targets,
        )

    def append(self, token: int) -> None:
        """A sampled token becomes known."""
        self.tokens.append(token)
        if len(self.tokens) % self.block_size == 0:
            parent = self.ids[-1] if self.ids else self.root
            self.ids.append(next_id(parent, self.tokens[-self.block_size :]))

    def restart(self) -> None:
        """Forget all that was computed (its blocks are gone); the known tokens stay."""
        self.table = []
        self.computed = 0
        self.stored = 0
        self.likely_hit = 0
        self.preemptions += 1
        if self.wants_prompt_rows:  # only whole sets are delivered, so start the rows anew too
            self.prompt_logprobs.clear()

    def finish_after_last_token(self) -> tuple[Finish, str] | None:
        """Whether the newest token ends the request, by token alone (stop strings are the detokenizer's matter).

        Returns the reason, and the stop token's id in decimal where one was asked for by the caller.
        """
        token, enough = self.tokens[-1], self.generated >= self.params.min_tokens
        if enough and token in self.params.stop_token_ids:
            return Finish.STOP, str(token)
        if enough and not self.params.ignore_eos and token in self.eos_token_ids:
            return Finish.STOP, ""
        if self.generated >= self.params.max_tokens or len(self.tokens) >= self.max_model_len:
            return Finish.LENGTH, ""
        return None
