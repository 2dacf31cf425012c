"""One request as the scheduler sees it: known tokens, computed tokens, a block table, and when it ends.

There are no phases. `computed` tokens must catch up with the known ones (prompt + output); prefill, chunks, prefix
hits, preemption and decoding are all arithmetic on these two numbers.

While a step is out (launched, its outputs not taken in), `in_flight` rows of it belong to the request, and `awaited`
counts the token that it samples. The next slice begins after those rows. Where the token that it needs is the one
awaited, the slice holds a `PLACEHOLDER`; how many tokens a step with a draft gives is not known, so nothing follows one
before its outputs are there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

from argosy_api.blocks import BlockId, block_ids, next_id
from argosy_api.params import SamplingParams
from argosy_worker.core.batch import PLACEHOLDER, Adapter, SequenceSlice, TokenLogprob
from argosy_worker.core.blocks import NULL_BLOCK
from argosy_worker.core.pool import Pool
from argosy_worker.core.rules import Grammar, TokenRules


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
    """Id before the first block: model fingerprint, adapter and the tenant's salt."""
    block_size: int
    arrival: float
    """Monotonic seconds."""
    max_model_len: int
    eos_token_ids: frozenset[int] = frozenset()
    adapter: Adapter | None = None
    """Computes it together with the model."""
    priority: int = 0
    """Larger goes first (`argosy_api.order`)."""
    deadline: float = inf
    """Monotonic seconds: when nobody wants the answer any more."""
    resumed: Sequence[int] = ()
    """The answer's first tokens, which another attempt has generated: they count as generated here."""
    resumed_text_bytes: int = 0
    """UTF-8 bytes of their text that the reader has."""
    grammar: Grammar | None = None
    """What the answer is constrained to."""
    pool: Pool | None = None
    """Makes the prompt's embedding, which comes with the first token."""

    tokens: list[int] = field(init=False)
    """Known tokens: prompt, then output. Only ever appended to."""
    rules: TokenRules | None = field(init=False)
    """For the sampler: what the parameters say about single tokens."""
    computed: int = field(init=False, default=0)
    """How many of `tokens` surely have their keys and values in the cache."""
    in_flight: int = field(init=False, default=0)
    """Rows of steps that are out: tokens after the computed ones, drafts among them."""
    awaited: int = field(init=False, default=0)
    """Tokens that steps which are out sample after the known ones, one each (a draft may bring more)."""
    drafted: bool = field(init=False, default=False)
    """Whether a step that is out carries a draft of this request."""
    table: tuple[int, ...] = field(init=False, default=())
    """Physical blocks; position p is in table[p // block_size]. Never changed in place: slices share it. The null block
    stands where the window of all layers has passed."""
    passed: int = field(init=False, default=0)
    """Leading blocks of `table` that were let go, because no row to come reads them."""
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
    ended: bool = field(init=False, default=False)
    """No longer with the scheduler; what steps that are out say about it is void."""

    def __post_init__(self) -> None:
        self.tokens = [*self.prompt, *self.resumed]
        self.rules = TokenRules.of(self.params, self.tokens, len(self.prompt), self.grammar)
        self.ids = block_ids(self.root, self.tokens, self.block_size)

    # --- arithmetic

    @property
    def scheduled(self) -> int:
        """Tokens that are computed or in a step that is out: where the next slice begins."""
        return self.computed + self.in_flight

    @property
    def remaining(self) -> int:
        """Tokens that the next step may compute; 1 for a request that generates, once its prompt is done.

        0 when only steps that are out can tell what comes next, or whether anything does.
        """
        if self.drafted or (self.awaited and self._enough(self.awaited)):
            return 0
        return len(self.tokens) + self.awaited - self.scheduled

    @property
    def ready(self) -> int:
        """How many of `remaining` the blocks at hand have room for."""
        return max(0, min(self.remaining, len(self.table) * self.block_size - self.scheduled))

    @property
    def generated(self) -> int:
        """Tokens generated so far, the resumed ones among them."""
        return len(self.tokens) - len(self.prompt)

    @property
    def decoding(self) -> bool:
        """Whether all but the newest generated token is computed, or on its way."""
        return self.remaining == 1 and self.generated + self.awaited > 0

    @property
    def blocks_wanted(self) -> int:
        """Blocks that all tokens need, the awaited one too."""
        return -(-(len(self.tokens) + self.awaited) // self.block_size)

    @property
    def most_blocks(self) -> int:
        """Blocks at its longest. The last generated token is never computed, so it needs no slot."""
        longest = min(len(self.prompt) + self.params.max_tokens, self.max_model_len)
        return -(-(longest - 1) // self.block_size)

    @property
    def most_draft(self) -> int:
        """Tokens that may be proposed: with one more, all of them could still be taken."""
        return max(0, min(self.params.max_tokens - self.generated, self.max_model_len - len(self.tokens)) - 1)

    @property
    def lost_if_preempted(self) -> int:
        """Computed tokens that are in no stored block, so that a preemption surely costs their recomputation."""
        return max(0, self.scheduled - self.stored * self.block_size)

    @property
    def wants_prompt_rows(self) -> bool:
        """Whether every prompt row must still be computed, so that a prefix hit would lose log-probabilities, or a part
        of the embedding.

        They came with the first token, so whoever goes on with an answer has them.
        """
        return self._wants_prompt_logprobs or (self.pool is not None and self.pool.missing)

    @property
    def _wants_prompt_logprobs(self) -> bool:
        if self.params.prompt_logprobs is None or self.resumed:
            return False
        return len(self.prompt_logprobs) < len(self.prompt) - 1

    @property
    def begun(self) -> bool:
        """Whether it waits in the midst of its answer: it was preempted, or another attempt has begun the answer."""
        return self.preemptions > 0 or bool(self.resumed)

    @property
    def usable_blocks(self) -> int:
        """Leading `ids` that a prefix hit may cover: never the last known token, whose row is to be sampled."""
        return 0 if self.wants_prompt_rows else (len(self.tokens) - 1) // self.block_size

    @property
    def enders(self) -> tuple[int, ...]:
        """Tokens that end the request. None of them is sampled before its min_tokens."""
        return (*self.params.stop_token_ids, *(() if self.params.ignore_eos else self.eos_token_ids))

    # --- changes

    def begin(self, hits: Sequence[int], fresh: Sequence[int]) -> None:
        """It is admitted, with blocks that hold its first tokens and others for what comes next."""
        self.table = (*hits, *fresh)
        self.stored = len(hits)
        self.computed = len(hits) * self.block_size
        self.passed = hits.count(NULL_BLOCK)

    def next_slice(self, count: int, draft: Sequence[int] = ()) -> SequenceSlice:
        """The next `count` tokens as a share of a step, and a draft of what may follow; they are in flight then."""
        begin, known = self.scheduled, len(self.tokens)
        end = begin + count
        tokens = (*self.tokens[begin:end], *([PLACEHOLDER] * (end - max(begin, known))), *draft)
        targets: Sequence[int] = ()
        if self._wants_prompt_logprobs:
            targets = tuple(self.prompt[begin + 1 : end + 1])
        reaches_end = end == known + self.awaited
        barred = max(0, self.params.min_tokens - self.generated - self.awaited) if reaches_end else 0
        self.in_flight += len(tokens)
        self.awaited += reaches_end
        self.drafted = bool(draft)
        return SequenceSlice(
            request_id=self.request_id,
            tokens=tokens,
            start=begin,
            table=self.table,
            sample_rows=range(count - 1, len(tokens)) if reaches_end else range(0),
            draft=len(draft),
            params=self.params,
            barred=self.enders if barred else (),
            barred_rows=barred,
            rules=self.rules,
            adapter=self.adapter,
            prompt_targets=targets,
            pool=self.pool,
        )

    def landed(self, piece: SequenceSlice) -> None:
        """A slice was computed: its rows, drafts too, are in the cache."""
        self.in_flight -= len(piece.tokens)
        self.computed += len(piece.tokens)
        self.awaited -= bool(piece.sample_rows)
        self.drafted = self.drafted and not piece.draft

    def accept(self, tokens: Sequence[int]) -> list[int]:
        """Sampled tokens become known, up to the first that ends the request; returns those that did."""
        taken: list[int] = []
        for token in tokens:
            self.tokens.append(token)
            taken.append(token)
            if len(self.tokens) % self.block_size == 0:
                parent = self.ids[-1] if self.ids else self.root
                self.ids.append(next_id(parent, self.tokens[-self.block_size :]))
            if self.finish_after_last_token() is not None:
                break
        return taken

    def rollback(self, count: int) -> tuple[int, ...]:
        """The last `count` computed tokens were not the right ones; returns the blocks that are free of use now."""
        self.computed -= count
        return self._cut(self.scheduled)

    def trim(self, count: int) -> tuple[int, ...]:
        """Of a draft only `count` tokens will be tried; returns the blocks that are free of use now."""
        return self._cut(len(self.tokens) + count)

    def _cut(self, positions: int) -> tuple[int, ...]:
        keep = -(-positions // self.block_size)
        self.table, tail = self.table[:keep], self.table[keep:]
        return tail

    def let_go(self, window_blocks: int) -> tuple[int, ...]:
        """Rows to come read so many blocks before their own; returns the blocks that they do not read any more.

        Rows that are in flight have their own table, and are computed before anybody writes to a block of it.
        """
        passed = max(self.passed, self.computed // self.block_size - window_blocks)
        gone = self.table[self.passed : passed]
        self.table = (*[NULL_BLOCK] * passed, *self.table[passed:]) if gone else self.table
        self.passed = passed
        return gone

    def restart(self) -> None:
        """Forget all that was computed (its blocks are gone) and all that is in flight; the known tokens stay."""
        self.table = ()
        self.passed = 0
        self.computed = self.in_flight = self.awaited = 0
        self.drafted = False
        self.stored = 0
        self.likely_hit = 0
        self.preemptions += 1
        if self._wants_prompt_logprobs:  # only whole sets are delivered, so start the rows anew too
            self.prompt_logprobs.clear()

    def finish_after_last_token(self) -> tuple[Finish, str] | None:
        """Whether the newest token ends the request, by token alone (stop strings are the detokenizer's matter).

        Returns the reason, and the stop token's id in decimal where one was asked for by the caller.
        """
        return self.finish_after(len(self.tokens))

    def finish_after(self, known: int) -> tuple[Finish, str] | None:
        """The same of the first `known` tokens, of which the last one is the answer's."""
        token = self.tokens[known - 1]
        if token in self.params.stop_token_ids:
            return Finish.STOP, str(token)
        if not self.params.ignore_eos and token in self.eos_token_ids:
            return Finish.STOP, ""
        if self._enough(known - len(self.tokens)):
            return Finish.LENGTH, ""
        return None

    def _enough(self, more: int) -> bool:
        """Whether the length ends the request when `more` tokens are known (less than zero: fewer)."""
        return self.generated + more >= self.params.max_tokens or len(self.tokens) + more >= self.max_model_len
