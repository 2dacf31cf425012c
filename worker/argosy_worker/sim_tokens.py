"""Which token the simulated model generates: a hash of all tokens before it, and what the request's parameters forbid.

`oracle` says what comes out, computed without an engine. Of what shapes a distribution (temperature, top-p, bias, ...)
only the seed counts, and only when sampling. Allowed tokens and bad words count as they are, and penalties by how often
each token occurred, so that a wrong history gives wrong tokens.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from hashlib import blake2b

from argosy_api.params import SamplingParams
from argosy_worker.sim_cache import START, STATE_BYTES, State, start_of

END_OF_TEXT, IM_START, IM_END = range(256, 259)
ENDS = (IM_END, END_OF_TEXT)
EMPTY: Mapping[int, int] = {}
_CLOSING = (*b'"]}', *ENDS)
_TRIES = 64
"""Draws after which any byte will do."""


def next_state(state: State, token: int) -> State:
    """The running hash after one more token."""
    return blake2b(state + token.to_bytes(4, "little"), digest_size=STATE_BYTES).digest()


def left_open(bits: bytes | None, params: SamplingParams, barred: Collection[int]) -> list[int] | None:
    """Tokens that a grammar's bits leave, and the parameters; None where there is no grammar."""
    if bits is None:
        return None
    ids = params.allowed_token_ids or range(min(8 * len(bits), IM_END + 1))
    return [t for t in ids if t >> 3 < len(bits) and bits[t >> 3] >> (t & 7) & 1 and t not in barred]


def pick(
    state: State,
    params: SamplingParams,
    eos_every: int,
    barred: Collection[int] = (),
    worn: Mapping[int, int] = EMPTY,
    *,
    left: Sequence[int] | None = None,
) -> int:
    """What follows the sequence with this hash; a token that is worn n times is passed over in n of n + 1 draws.

    `left`: what a grammar leaves, never nothing. Of that, what closes something is taken in one of four draws.
    """
    key = b"greedy" if params.greedy else (params.seed or 0).to_bytes(8, "little")
    allowed, tries = params.allowed_token_ids, 0
    if left is not None:
        first = int.from_bytes(blake2b(state + key, digest_size=8).digest(), "little")
        closing = [token for token in left if token in _CLOSING]
        allowed = closing if closing and first % 4 == 0 else left
    while True:
        drawn = int.from_bytes(blake2b(state + key, digest_size=8).digest(), "little")
        if allowed:
            token = allowed[(drawn >> 16) % len(allowed)]
        elif tries < _TRIES:
            token = IM_END if eos_every and drawn % eos_every == 0 else 32 + (drawn >> 16) % 95
        else:  # nothing printable is left
            token = (drawn >> 16) % 256
        if token not in barred and (drawn >> 40) % (1 + worn.get(token, 0)) == 0:
            return token
        key += b"again"
        tries += 1


def astray(state: State, token: int, accept: float, params: SamplingParams, barred: Collection[int] = ()) -> int:
    """`token`, or with probability 1 - `accept` another one that may be sampled, if there is any; by the state."""
    drawn = int.from_bytes(blake2b(state + b"accept", digest_size=8).digest(), "little")
    if drawn < accept * 2**64:
        return token
    others = params.allowed_token_ids or [32 + (token + i) % 95 for i in range(1, 95)]
    return next((other for other in others if other != token and other not in barred), token)


def wear(params: SamplingParams, ids: Iterable[int], times: Iterable[int]) -> dict[int, int]:
    """How worn tokens are that the answer has so many times; with a repetition penalty those of the prompt are, too."""
    return {token: count + (params.repetition_penalty != 1) for token, count in zip(ids, times, strict=True)}


def oracle(
    prompt: Sequence[int], count: int, params: SamplingParams, *, eos_every: int = 0, adapter: str = ""
) -> list[int]:
    """The first `count` tokens after `prompt`, computed without blocks, chunks or batches, and counted anew for each.

    Of the stop conditions it knows only `min_tokens`: what would end the request is not drawn before. `adapter`: the
    digest of one.
    """
    state = start_of(adapter) if adapter else START
    for token in prompt:
        state = next_state(state, token)
    enders = {*params.stop_token_ids, *(() if params.ignore_eos else ENDS)}
    tokens: list[int] = []
    for i in range(count):
        barred = {w[-1] for w in params.bad_words_ids if i + 1 >= len(w) and tuple(tokens[i + 1 - len(w) :]) == w[:-1]}
        worn = {}
        if params.counts_tokens:
            seen = {*tokens, *(prompt if params.repetition_penalty != 1 else ())}
            worn = wear(params, seen, [tokens.count(token) for token in seen])
        tokens.append(pick(state, params, eos_every, barred | (enders if i < params.min_tokens else set()), worn))
        state = next_state(state, tokens[-1])
    return tokens
