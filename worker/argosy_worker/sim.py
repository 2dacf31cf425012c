"""The simulated model: the next token is a hash of all tokens before it, at a set speed.

    sim://NAME?prefill_tps=20000&decode_ms=10&step_ms=0&load_s=0
              &copy_ms=0&kv_blocks=4096&max_model_len=8192&vocab=259&eos_every=0&window=0&check=0&accept=1

It runs under the real scheduler, block pool, events and server, without torch and without a GPU. It is also an oracle:
it keeps a "KV cache" of its own, one running hash for each (physical block, slot), and reads the hash of the position
before through the block table. A wrong table, a block handed out twice, a stale block taken for a prefix hit or a chunk
computed twice changes the tokens, and then they are not those of `oracle`, which needs no blocks at all. With `check=1`
it also verifies in each step that all blocks of a table follow each other, and fails the request if they do not; with
`window` those that lie in it.

Tokens are bytes: ids 0 to 255, then three special tokens. Generated ones are printable ASCII.
"""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import blake2b

from argosy_api import bpe
from argosy_api.errors import ModelInvalidError
from argosy_api.model_uri import ModelUri
from argosy_worker import sim_tokens
from argosy_worker.core.batch import (
    Finished,
    Runner,
    SequenceSlice,
    StepBatch,
    StepOutput,
    TokenLogprob,
    accepted,
    stuck,
)
from argosy_worker.core.blocks import NULL_BLOCK
from argosy_worker.core.facts import ModelFacts
from argosy_worker.core.rules import Counts
from argosy_worker.sim_cache import START, SimCache, State, start_of
from argosy_worker.sim_tokens import EMPTY, ENDS, astray, left_open, next_state, pick, wear

oracle = sim_tokens.oracle
IM_START, IM_END = sim_tokens.IM_START, sim_tokens.IM_END
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_BYTES_PER_TOKEN = 1024  # pretended; only the ratio of cache size to block size matters
_BLOCK_UNIT = 16  # kv_blocks counts blocks of this many tokens, whatever the engine's block size


@dataclass(frozen=True, slots=True, kw_only=True)
class SimSpec:
    """What a `sim://` address says."""

    name: str = "sim"
    prefill_tps: float = 20000.0
    """Prompt tokens per second; 0 takes no time."""
    decode_ms: float = 10.0
    """Time of a step in which any request generates, beside its prompt tokens."""
    step_ms: float = 0.0
    """Time of every step."""
    copy_ms: float = 0.0
    """Time of copying one block out of the cache or into it, for another worker."""
    load_s: float = 0.0
    """Time that loading takes."""
    kv_blocks: int = 4096
    """Size of the KV cache, in blocks of 16 tokens."""
    max_model_len: int = 8192
    vocab: int = 256 + len(SPECIAL_TOKENS)
    """Ids from 259 on may stand in prompts; they have no text and are never generated."""
    eos_every: int = 0
    """On average every so many tokens is an end of sequence; 0: never."""
    window: int = 0
    """Pretended positions that a row sees, so that blocks before them are let go; 0: all."""
    check: int = 0
    """1: verify the whole block table in each step."""
    accept: float = 1.0
    """Share of the tokens that are those of the plain simulated model; the others are wrong. For draft models."""

    @classmethod
    def parse(cls, uri: ModelUri) -> "SimSpec":
        """Read the options of a `sim://` address.

        Raises:
            ModelInvalidError: naming the part that is wrong, and what would be right.

        """
        kinds = {f.name: f.type for f in fields(cls) if f.name != "name"}
        values: dict[str, float | int] = {}
        for key, text in uri.options:
            if key not in kinds:
                named = f" {key!r}" if re.fullmatch("[a-z_]{1,32}", key) else ""
                raise ModelInvalidError(f"{uri}: unknown option{named}; known are {', '.join(kinds)}")
            values[key] = _number(uri, key, text, whole=kinds[key] is int)
        spec = cls(name=uri.place, **values)  # type: ignore[arg-type]  # each value has the type of its field
        lows = {"kv_blocks": 1, "max_model_len": 2, "vocab": 256 + len(SPECIAL_TOKENS)}
        if spec.window == 1:
            raise ModelInvalidError(f"{uri}: window is 1; must be 0, for all, or at least 2")
        for key, low in lows.items():
            if getattr(spec, key) < low:
                raise ModelInvalidError(f"{uri}: {key} is {getattr(spec, key)}; must be at least {low}")
        if spec.accept > 1:
            raise ModelInvalidError(f"{uri}: accept is {spec.accept}; must be at most 1")
        return spec


def _number(uri: ModelUri, key: str, text: str, *, whole: bool) -> float | int:
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        raise ModelInvalidError(f"{uri}: {key} must be {'an integer' if whole else 'a number'}") from None
    if not 0 <= value < 1 << 40:  # also refuses NaN
        raise ModelInvalidError(f"{uri}: {key} is {value}; must be at least 0 and finite")
    return value


# --- the runner


@dataclass(frozen=True, slots=True)
class SimAdapter:
    """What changes all tokens in its own way: the simulated model's hash goes on from its name."""

    digest: str


class SimRunner:
    """A `Runner` over hashes. See the module's docstring."""

    def __init__(self, spec: SimSpec, num_blocks: int, block_size: int, host_blocks: int = 0) -> None:
        self._spec = spec
        self._block_size = block_size
        self.store = SimCache(num_blocks, block_size, copy_s=spec.copy_ms / 1e3, host_blocks=host_blocks)
        self._before, self._after = self.store.before, self.store.after

    def launch(self, batch: StepBatch) -> Finished:
        """Compute a step in the time that the address says. Sleeping frees the GIL, as a real model's kernels do."""
        self.store.move(batch.moves)
        began = time.monotonic()
        if not batch.slices:
            return Finished([])
        outputs = [self._slice(piece) for piece in batch.slices]
        pause = self._seconds(batch) - (time.monotonic() - began)
        if pause > 0:
            time.sleep(pause)
        return Finished(outputs)

    def _seconds(self, batch: StepBatch) -> float:
        decoding = sum(len(p.tokens) for p in batch.slices if len(p.sample_rows) == len(p.tokens))
        seconds = self._spec.step_ms / 1e3
        if decoding:
            seconds += self._spec.decode_ms / 1e3
        if self._spec.prefill_tps:
            seconds += (batch.num_tokens - decoding) / self._spec.prefill_tps
        return seconds

    def _slice(self, piece: SequenceSlice) -> StepOutput:
        if self._spec.check:
            problem = self._broken_table(piece)
            if problem:
                return StepOutput(error=problem)
        size, table = self._block_size, piece.table
        begin = START if piece.adapter is None else start_of(piece.adapter.digest)
        state = begin if piece.start == 0 else self._after[table[(piece.start - 1) // size]][(piece.start - 1) % size]
        rows: list[TokenLogprob] = []
        ends: list[tuple[State, Sequence[int], Counts | None, list[int] | None]] = []  # after each row that is sampled
        targets = iter(piece.prompt_targets)
        for row, token in enumerate(piece.tokens):
            position = piece.start + row
            block, slot = table[position // size], position % size
            if slot == 0:
                self._before[block] = state
            state = next_state(state, token)
            self._after[block][slot] = state
            target = next(targets, None)
            if target is not None and piece.params.prompt_logprobs is not None:
                rows.append(_logprob(state, target, piece.params.prompt_logprobs))
            if row in piece.sample_rows:
                barred = piece.banned_at(row)
                left = left_open(piece.open_at(row), piece.params, barred)
                if left is not None and not left:
                    if not ends:
                        return StepOutput(error=stuck(piece))
                    break
                ends.append((state, barred, piece.counts_at(row), left))
        params, spec = piece.params, self._spec
        sampled = [
            pick(end, params, spec.eos_every, barred, wear(params, *counts) if counts else EMPTY, left=left)
            for end, barred, counts, left in ends
        ]
        if spec.accept < 1:
            pairs = zip(ends, sampled, strict=True)
            sampled = [
                astray(end, token, spec.accept, replace(params, allowed_token_ids=left) if left else params, barred)
                for (end, barred, _, left), token in pairs
            ]
        draft = piece.tokens[len(piece.tokens) - piece.draft :]
        tokens = sampled[: accepted(draft[: max(0, len(sampled) - 1)], sampled)]
        scores: list[TokenLogprob] = []
        if piece.params.logprobs is not None:
            scores = [_logprob(end, t, piece.params.logprobs) for (end, *_), t in zip(ends, tokens, strict=False)]
        return StepOutput(tokens, scores, rows)

    def _broken_table(self, piece: SequenceSlice) -> str | None:
        """Why the cache does not hold one unbroken sequence up to `start`, if so."""
        size, table = self._block_size, piece.table
        end = piece.start + len(piece.tokens)
        first = max(0, piece.start + 1 - self._spec.window) // size if self._spec.window else 0
        needed = table[first : -(-end // size)]
        if (first + len(needed)) * size < end or NULL_BLOCK in needed or len(set(needed)) != len(needed):
            return f"block table {list(needed)} cannot hold positions up to {end}"
        past = table[first : -(-piece.start // size)]
        befores = [self._before[block] for block in past]
        start = START if piece.adapter is None else start_of(piece.adapter.digest)
        begin = start if first == 0 else befores[0] if befores else b""
        if befores != [begin, *(self._after[block][-1] for block in past[:-1])][: len(past)]:
            return f"blocks {list(past)} do not follow each other"
        return None


def _logprob(state: State, token: int, count: int) -> TokenLogprob:
    """Made-up but fixed values: alternatives fall by a factor of e, and `token` is the best of them."""
    first = -0.1 - state[0] / 256
    others = [(token + 1 + i) % 256 for i in range(count - 1)]
    top = [(t, first - rank) for rank, t in enumerate([token, *others])] if count else []
    return TokenLogprob(token, first, top)


# --- the model


def _fingerprint(spec: SimSpec) -> str:
    """Of what decides the tokens."""
    parts = f"sim/{spec.name}/{spec.vocab}/{spec.eos_every}" + (f"/{spec.accept}" if spec.accept < 1 else "")
    return blake2b(parts.encode(), digest_size=16).hexdigest()


class SimModel:
    """A `LoadedModel` over a `SimSpec`."""

    def __init__(self, spec: SimSpec) -> None:
        self._spec = spec
        self.facts = ModelFacts(
            architecture="sim",
            quantization="none",
            compute="sim",
            kv_dtype="sim",
            device="cpu",
            vocab_size=spec.vocab,
            context_length=spec.max_model_len,
            window=spec.window,
            bos_token_id=None,
            eos_token_ids=ENDS,
            add_bos=False,
            special_tokens={"eos_token": "<|im_end|>"},
            chat_template=CHAT_TEMPLATE,
            tokenizer_json=tokenizer_json(),
            fingerprint=_fingerprint(spec),
        )
        self.kernels: Mapping[str, str] = {"model": "sim: simulated, as the model's address asks"}

    def kv_bytes_per_block(self, block_size: int) -> int:
        """Pretended bytes of one block."""
        return block_size * _BYTES_PER_TOKEN

    def memory_for_kv(self, kept: int = 0, step: int | None = None) -> int:
        """What `kv_blocks` blocks of 16 tokens take."""
        del kept, step
        return self._spec.kv_blocks * _BLOCK_UNIT * _BYTES_PER_TOKEN

    def memory_left(self) -> None:
        """Pretended blocks take no memory."""

    def host_memory_left(self) -> None:
        """Nor do those on the host."""

    def make_runner(self, num_blocks: int, block_size: int, *, touch: bool = False, host_blocks: int = 0) -> SimRunner:
        """A runner with `num_blocks` usable blocks, and room for evicted ones. There is nothing to touch."""
        del touch
        return SimRunner(self._spec, num_blocks, block_size, host_blocks)

    def step_bytes(self, block_size: int, *, tokens: int, sequences: int) -> int | None:
        """Nothing is taken."""

    def warm(self, runner: Runner, block_size: int, tokens: int) -> None:
        """There is nothing to compile."""


def load(uri: ModelUri, progress: Callable[[str, float], None]) -> SimModel:
    """Take as long as `load_s` says, and say how far it is.

    Raises:
        ModelInvalidError: the address is wrong.

    """
    spec = SimSpec.parse(uri)
    began = time.monotonic()
    while (elapsed := time.monotonic() - began) < spec.load_s:
        progress("loading the simulated model", elapsed / spec.load_s)
        time.sleep(min(0.1, spec.load_s - elapsed))
    progress("loading the simulated model", 1.0)
    return SimModel(spec)


def tokenizer_json() -> bytes:
    """A byte-level tokenizer: one token for each byte, no merges, and the special tokens. Tokenizers-library format."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    document = bpe.document(
        vocab={letter: byte for byte, letter in sorted(bpe.byte_alphabet().items())},
        merges=[],
        added=[bpe.added_token(256 + n, text, special=True) for n, text in enumerate(SPECIAL_TOKENS)],
        pre_tokenizer=level,
        decoder=level,
    )
    return json.dumps(document).encode()
