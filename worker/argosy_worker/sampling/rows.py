"""What one row of logits is sampled with, and the edits of logits that name single tokens: steps 2 to 5 (`sampler`).

All rows of a batch are edited in one pass: each edit gathers the logits that it is about, of all rows, and puts them
back. Only operations that round correctly are used, so a value's bits depend on that value alone.
"""

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from argosy_api.params import SamplingParams
from argosy_worker.arrays import Array, copied, like, where
from argosy_worker.core.batch import SequenceSlice
from argosy_worker.core.rules import Counts

_MOST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Row:
    """What one row of logits is sampled with."""

    params: SamplingParams
    seed: int
    position: int
    """Of the token to be drawn, in the sequence."""
    barred: Sequence[int] = ()
    """Ids that may not be taken; never all of them, nor all that are allowed."""
    allowed: "array[int] | None" = None
    """The only ids that may be taken; None or empty for all."""
    bias: "tuple[array[int], array[float]] | None" = None
    """Ids, and what is added to their logits."""
    counts: Counts | None = None
    """How often tokens occur before this position, where the parameters have a penalty."""
    open: npt.NDArray[np.uint8] | None = None
    """A bit for each token, the lowest first, where a grammar leaves only some: 1 where neither it nor `allowed` nor
    `barred` rules it out."""

    @property
    def stuck(self) -> bool:
        """Whether nothing is left to draw."""
        return self.open is not None and not self.open.any()


def row_of(piece: SequenceSlice, row: int, vocab: int) -> Row:
    """How the token after `row`, one of the slice's `sample_rows`, is to be sampled."""
    rules = piece.rules
    barred, allowed = piece.banned_at(row), rules.allowed if rules is not None else None
    bits = piece.open_at(row)
    return Row(
        params=piece.params,
        seed=piece.params.seed or 0,
        position=piece.start + row + 1,
        barred=barred,
        allowed=allowed,
        open=None if bits is None else _open(bits, vocab, allowed, barred),
        bias=rules.bias if rules is not None else None,
        counts=piece.counts_at(row),
    )


def tried(slices: Sequence[SequenceSlice], rows: Sequence[Row]) -> Iterator[tuple[int, int, Sequence[int]]]:
    """What says which of each slice's sampled tokens count: its first row, how many are drawn, and the drafted tokens.

    `rows`: all that are sampled, one slice after another. Nothing is drawn after one that is stuck.
    """
    end = 0
    for s in slices:
        begin, end = end, end + len(s.sample_rows)
        most = next((n for n, row in enumerate(rows[begin:end]) if row.stuck), end - begin)
        yield begin, most, s.tokens[len(s.tokens) - s.draft :][: max(0, most - 1)]


def _open(bits: bytes, vocab: int, allowed: "array[int] | None", barred: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Of the grammar's bits those that count; tokens that it does not know are none of its."""
    size = -(-vocab // 8)
    kept = bytearray(bits[:size])
    kept += bytes(size - len(kept))
    if vocab % 8:
        kept[-1] &= (1 << vocab % 8) - 1
    for token in barred:
        kept[token >> 3] &= ~(1 << (token & 7))
    found = np.frombuffer(kept, dtype=np.uint8)
    if allowed:
        narrow = np.zeros(vocab, dtype=np.bool_)
        narrow[np.array(allowed)] = True
        found &= np.packbits(narrow, bitorder="little")
    return found


def edited(logits: Array, rows: Sequence[Row], *, masks: bool = True) -> Array:
    """Logits fp32 [n, vocab], of numpy or of torch, as the rows' parameters want them.

    `logits` itself, unchanged, where none wants any. `masks`: whether to do what the rows' `open` says, too; native
    kernels do that when they draw.
    """
    biased = [(i, row.bias) for i, row in enumerate(rows) if row.bias is not None and row.bias[0]]
    counted = [(i, row.params, row.counts) for i, row in enumerate(rows) if row.counts is not None and row.counts.ids]
    # where a grammar leaves only some, its bits have these, too
    barred = [(i, row.barred) for i, row in enumerate(rows) if row.barred and row.open is None]
    limited = [(i, row.allowed) for i, row in enumerate(rows) if row.allowed and row.open is None]
    if not (biased or counted or barred or limited):
        return closed(logits, rows) if masks else logits
    logits = copied(logits)
    flat, vocab = logits.reshape(-1), logits.shape[-1]
    if biased:
        at = _places(((i, ids) for i, (ids, _) in biased), vocab, logits)
        flat[at] = flat[at] + _join((values for _, (_, values) in biased), np.float32, logits)
    if counted:
        at = _places(((i, counts.ids) for i, _, counts in counted), vocab, logits)
        flat[at] = _penalized(flat[at], counted)
    # what is forbidden stays so whatever is added, so it may as well come last, when no infinity can meet another
    for i, ids in limited:
        at = like(logits, np.array(ids))
        kept = logits[i, at]
        logits[i] = -math.inf
        logits[i, at] = kept
    if barred:
        flat[_places(barred, vocab, logits)] = -math.inf
    return closed(logits, rows) if masks else logits


def closed(logits: Array, rows: Sequence[Row]) -> Array:
    """Logits [n, vocab] in which tokens whose bit in their row's `open` is 0 have minus infinity.

    `logits` itself, unchanged, where no row has bits.
    """
    left = [(i, row.open) for i, row in enumerate(rows) if row.open is not None]
    if left:
        logits = copied(logits)
    for i, bits in left:
        known = np.unpackbits(bits, bitorder="little", count=logits.shape[-1]).view(np.bool_)
        logits[i][like(logits, ~known)] = -math.inf
    return logits


def _penalized(values: Array, counted: Sequence[tuple[int, SamplingParams, Counts]]) -> Array:
    """Values fp32 of the counted tokens, of one row after another."""
    lengths = [len(counts.ids) for _, _, counts in counted]

    def each(numbers: Iterable[float]) -> Array:
        return like(values, np.repeat(np.fromiter(numbers, np.float32), lengths))

    repetition = each(params.repetition_penalty for _, params, _ in counted)
    frequency = each(params.frequency_penalty for _, params, _ in counted)
    presence = each(params.presence_penalty for _, params, _ in counted)
    times = _join((counts.times for _, _, counts in counted), np.float32, values)
    values = where(values > 0, values / repetition, values * repetition)
    values = values - frequency * times
    values = values - presence * (times > 0)
    return values.clip(-_MOST, _MOST)


def _places(parts: Iterable[tuple[int, Sequence[int]]], vocab: int, like_them: Array) -> Array:
    """Indices into the flat logits of the ids of (row, ids)."""
    joined = np.concatenate([np.asarray(ids, dtype=np.int64) + i * vocab for i, ids in parts])
    return like(like_them, joined)


def _join(parts: Iterable[Sequence[float]], kind: type[np.float32], like_them: Array) -> Array:
    return like(like_them, np.concatenate([np.asarray(part, dtype=kind) for part in parts]))
