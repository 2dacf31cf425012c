"""Drafts by a smaller model with the same vocabulary.

Its keys and values lie in the same blocks as those of the model that is served: block number b stands for room in both
caches, so tables, prefix hits and preemption need no second bookkeeping, and one number of bytes per block accounts for
both. (The arrays are two, since the models' shapes differ.) What of a block the draft model has computed is known by
the block's id: a block that came from the prefix cache with the draft model's part is used, one without is computed. A
mistake here would cost right guesses, never a right answer.

Where it is computed beside the host, all guesses of a step are launched one behind the other, each with the token of
the one before on the device, and waited for once (not where a rule must see a token before the next one is drawn).

The draft model draws with the request's own sampling settings and the same (seed, position) numbers, so that what is
likely under both models is drawn by both.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from argosy_api import limits
from argosy_api.blocks import BlockId
from argosy_api.faults import is_fault
from argosy_api.params import SamplingParams
from argosy_worker.core.ahead import needs_last_token
from argosy_worker.core.batch import PLACEHOLDER, Runner, SequenceSlice, StepBatch, StepOutput, computes_beside
from argosy_worker.core.blocks import NULL_BLOCK
from argosy_worker.core.facts import ModelFacts
from argosy_worker.core.request import Request
from argosy_worker.core.rules import RulesAhead, TokenRules
from argosy_worker.speculation.cost import StepCost

log = logging.getLogger(__name__)

SURE = 1024
"""Likeliest tokens that guesses are drawn from, where the next one is launched behind them: of those a device draws by
itself, while a wider choice may end on the host (`sampling.together`), too late for what was launched."""
CHUNK = 256
"""Rows that the draft model computes in a step to catch up with a request, at most."""


@dataclass(slots=True)
class _Seen:
    """What the draft model has computed of a request."""

    params: SamplingParams
    life: int
    """The request's preemptions at the time: each takes its blocks away."""
    computed: int = 0
    """Leading tokens that the cache surely holds."""
    marked: int = 0
    """Leading blocks whose ids are noted."""
    known: int = 0
    """Known tokens when the last draft was made."""
    draft: list[int] = field(default_factory=list)
    """That draft; all but its last token were computed, too."""
    broken: bool = False
    """The draft model cannot go on with this request."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of one call."""

    guessing: float = 0.0
    catching_up: float = 0.0


class DraftModel:
    """Guesses for many requests at once. Owned by the engine's thread."""

    def __init__(
        self, runner: Runner, *, facts: ModelFacts, target: ModelFacts, num_blocks: int, block_size: int
    ) -> None:
        """`runner` computes the draft model. Its vocabulary is the target's, but for the padding of either."""
        self.runner = runner
        """Of the engine's thread, as this is."""
        self._block_size, self._beside = block_size, computes_beside(runner)
        self._context, self._vocab, self._target_vocab = facts.context_length, facts.vocab_size, target.vocab_size
        # whether the target's pool keeps all blocks that this model reads, where it lets go of some
        self._windowed = 0 < facts.window <= target.window
        self._holds: list[BlockId | None] = [None] * (num_blocks + 1)
        self._seen: dict[Request, _Seen] = {}
        self.share: float | None = None
        """What a row took when it was measured, in steps of the model that is served."""

    def measure(self, target: Runner) -> None:
        """See what a row takes, and what it takes `target`. Before there is any request: both write to the first block.

        Else only a draft could show it, for which the model would first have to catch up with a whole prompt.
        """
        piece = SequenceSlice(
            request_id="", tokens=(0,), start=0, table=(1,), sample_rows=range(1), params=SamplingParams(temperature=0)
        )
        try:
            times = [(_run(self.runner, [piece])[1], _run(target, [piece])[1]) for _ in range(3)]
            draft, plain = (min(each) for each in zip(*times, strict=True))
            self.share = draft / max(plain, 1e-9)
        except BaseException as error:
            if not is_fault(error):
                raise
            log.exception("the draft model failed when it was tried")

    def behind(self, request: Request) -> int | None:
        """Rows to compute before the next guess, at least 1; None where the draft model cannot guess."""
        if len(request.tokens) + limits.MAX_DRAFT > self._context:
            return None
        seen = self._look(request)
        fresh = request.tokens[seen.computed :]
        if seen.broken or not request.table:
            return None
        if request.table[seen.computed // self._block_size] == NULL_BLOCK or (
            request.table[0] == NULL_BLOCK and not self._windowed
        ):
            return None  # blocks that it would need were let go
        if max(fresh) >= self._vocab:  # a padded embedding has more rows than the other one
            seen.broken = True
            return None
        return len(fresh)

    def draft(
        self, requests: Sequence[Request], lengths: Sequence[int], cost: StepCost
    ) -> tuple[list[list[int]], Spent]:
        """Up to `lengths[i]` tokens for requests[i], none where it must catch up first; notes its times in `cost`."""
        drafts: list[list[int]] = [[] for _ in requests]
        spent = Spent()
        room, first = CHUNK, []
        behind = [self.behind(request) if length else None for request, length in zip(requests, lengths, strict=True)]
        for rows, i in sorted((rows, i) for i, rows in enumerate(behind) if rows is not None):
            if room:
                first.append((i, min(rows, room)))
                room -= min(rows, room)
        if not first:
            return drafts, spent
        pieces = [self._catch_up(requests[i], count) for i, count in first]
        if self._beside and not any(needs_last_token(requests[i]) for i, _ in first):
            return drafts, self._at_once(first, pieces, requests, lengths, drafts, cost)
        outputs, seconds = _run(self.runner, pieces)
        plain = cost.plain(len(pieces))
        cost.add(len(pieces), sum(len(p.tokens) - 1 for p in pieces), seconds)
        guessing = min(seconds, plain or seconds)
        spent = Spent(guessing, seconds - guessing)
        going = self._take(zip(first, pieces, outputs, strict=True), requests, drafts)
        while going := [i for i in going if len(drafts[i]) < lengths[i]]:
            pieces = [self._next(requests[i], drafts[i]) for i in going]
            outputs, seconds = _run(self.runner, pieces)
            cost.add(len(pieces), 0, seconds)
            spent = Spent(spent.guessing + seconds, spent.catching_up)
            going = self._take(zip([(i, 1) for i in going], pieces, outputs, strict=True), requests, drafts)
        self._note(first, requests, drafts)
        return drafts, spent

    def ended(self, request: Request) -> None:
        """Forget a request."""
        self._seen.pop(request, None)

    # --- how

    def _at_once(  # noqa: PLR0917
        self,
        first: Sequence[tuple[int, int]],
        pieces: list[SequenceSlice],
        requests: Sequence[Request],
        lengths: Sequence[int],
        drafts: list[list[int]],
        cost: StepCost,
    ) -> Spent:
        """All guesses, each launched behind the one before; what follows an end, or a fault, is not taken."""
        began, plain = time.monotonic(), cost.plain(len(pieces))
        more = sum(len(p.tokens) - 1 for p in pieces)
        out = [(list(first), pieces, self.runner.launch(StepBatch(pieces)))]
        going = [i for (i, _), piece in zip(first, pieces, strict=True) if piece.sample_rows]
        for made in range(1, max(lengths)):
            going = [i for i in going if lengths[i] > made]
            if not going:
                break
            pieces = [self._next(requests[i], [PLACEHOLDER] * made) for i in going]
            out.append(([(i, 1) for i in going], pieces, self.runner.launch(StepBatch(pieces))))
        alive = {i for i, _ in first}
        for rows, pieces, pending in out:
            outputs = zip(rows, pieces, pending.result(), strict=True)
            kept = [(row, piece, output) for row, piece, output in outputs if row[0] in alive]
            alive = set(self._take(kept, requests, drafts))
        self._note(first, requests, drafts)
        seconds = time.monotonic() - began
        each = seconds / len(out)
        if more and plain is not None:  # what the first one takes longer is for what it caught up with
            each = min(each, plain)
        longer = seconds - each * len(out)
        cost.add(len(first), more, each + longer)
        for rows, _, _ in out[1:]:
            cost.add(len(rows), 0, each)
        return Spent(seconds - longer, longer)

    def _note(self, first: Sequence[tuple[int, int]], requests: Sequence[Request], drafts: list[list[int]]) -> None:
        for i, _ in first:
            seen = self._seen[requests[i]]
            seen.known, seen.draft = len(requests[i].tokens), drafts[i]

    def _look(self, request: Request) -> _Seen:
        """What is known of a request, brought up to date."""
        seen = self._seen.get(request)
        if seen is None:
            plain = replace(request.params, logprobs=None, prompt_logprobs=None)
            if self._beside and (plain.top_k > SURE or (plain.top_p < 1 and plain.top_k <= 0)):
                plain = replace(plain, top_k=SURE)
            seen = self._seen[request] = _Seen(plain, life=-1)
        if seen.life != request.preemptions:  # it has other blocks now, maybe some that came with our part
            seen.life, seen.draft = request.preemptions, []
            held = 0
            for block, block_id in zip(request.table, request.ids, strict=False):
                if self._holds[block] != block_id and not (block == NULL_BLOCK and self._windowed):
                    break
                held += 1
            seen.marked = held
            seen.computed = held * self._block_size
        elif seen.draft:
            right = 0
            for token, known in zip(seen.draft[:-1], request.tokens[seen.known :], strict=False):
                if token != known:
                    break
                right += 1
            seen.computed, seen.draft = seen.known + right, []
            self._mark(request, seen)
        seen.computed = min(seen.computed, len(request.tokens) - 1)
        return seen

    def _catch_up(self, request: Request, count: int) -> SequenceSlice:
        seen = self._seen[request]
        begin, end = seen.computed, seen.computed + count
        sample = end == len(request.tokens)
        return self._slice(request, request.tokens[begin:end], begin, request.rules, sample=sample)

    def _next(self, request: Request, draft: Sequence[int]) -> SequenceSlice:
        known = len(request.tokens)
        rules = RulesAhead(request.rules, known, draft) if request.rules is not None else None
        return self._slice(request, draft[-1:], known + len(draft) - 1, rules, sample=True)

    def _slice(
        self, request: Request, tokens: Sequence[int], start: int, rules: TokenRules | None, *, sample: bool
    ) -> SequenceSlice:
        size, rows = self._block_size, len(tokens)
        for place in range(start // size, (start + rows - 1) // size + 1):
            self._holds[request.table[place]] = None
        barred = request.params.min_tokens > start + rows - len(request.prompt)
        return SequenceSlice(
            request_id=request.request_id,
            tokens=tuple(tokens),
            start=start,
            table=request.table,
            sample_rows=range(rows - 1, rows) if sample else range(0),
            params=self._seen[request].params,
            barred=request.enders if barred else (),
            barred_rows=1 if barred else 0,
            rules=rules,
        )

    def _take(
        self,
        computed: Iterable[tuple[tuple[int, int], SequenceSlice, StepOutput]],
        requests: Sequence[Request],
        drafts: list[list[int]],
    ) -> list[int]:
        """Take in a step of the draft model; whose guesses may go on."""
        going = []
        for (i, _), piece, output in computed:
            request = requests[i]
            seen = self._seen[request]
            if output.error is not None:
                seen.broken, drafts[i] = True, []
                continue
            end = piece.start + len(piece.tokens)
            if end <= len(request.tokens):
                seen.computed = end
                self._mark(request, seen)
            token = next(iter(output.tokens), None)
            if token is None or token >= self._target_vocab:
                continue
            drafts[i].append(token)
            if token not in request.enders:  # nothing follows an end
                going.append(i)
        return going

    def _mark(self, request: Request, seen: _Seen) -> None:
        """Note the full blocks that are computed."""
        full = min(seen.computed // self._block_size, len(request.table), len(request.ids))
        for place in range(min(seen.marked, full), full):
            if request.table[place] != NULL_BLOCK:
                self._holds[request.table[place]] = request.ids[place]
        seen.marked = max(seen.marked, full) if full else 0


def _run(runner: Runner, pieces: Sequence[SequenceSlice]) -> tuple[list[StepOutput], float]:
    began = time.monotonic()
    outputs = runner.launch(StepBatch(pieces)).result()
    return outputs, time.monotonic() - began
