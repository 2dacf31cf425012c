"""What kernels move and compute: the least time that a launch can take on a GPU of some bandwidth and speed. Pure.

Bytes are those of a kernel's own loads and stores, each counted once where a cache can be expected to hold them:
keys and values once for each tile of a sequence, weights once for a launch.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from argosy_worker.compute.config import Experts
from argosy_worker.compute.triton import tiles
from argosy_worker.compute.triton.paths import coded_path, half_of, path
from argosy_worker.compute.triton.tiles import Heads


@dataclass(frozen=True, slots=True)
class Cost:
    """Of launches."""

    read: int
    """Bytes read and written."""
    operations: int
    """Of floating point; a product and its sum are two."""
    launches: int = 1

    def __add__(self, other: "Cost") -> "Cost":
        """Both."""
        return Cost(self.read + other.read, self.operations + other.operations, self.launches + other.launches)

    def __mul__(self, times: int) -> "Cost":
        """So many of them."""
        return Cost(self.read * times, self.operations * times, self.launches * times)

    def seconds(self, bandwidth: float, speed: float) -> float:
        """At least: with memory of so many bytes, and so many operations, in a second."""
        return max(self.read / bandwidth, self.operations / speed)


NOTHING = Cost(0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Sizes of a decoder."""

    attention: Heads
    hidden: int
    ffn: int
    """Of the feed-forward part, or of each expert."""
    layers: int
    vocab: int
    experts: Experts | None = None

    @property
    def linears(self) -> tuple[tuple[int, int], ...]:
        """(outputs, inputs) of a layer's linears: qkv, o, and, where there are no experts, gate and up, down."""
        shape = self.attention
        wide = shape.heads * shape.head_dim
        attending = (wide + 2 * shape.kv_heads * shape.head_dim, self.hidden), (self.hidden, wide)
        if self.experts is not None:
            return attending
        return (*attending, (2 * self.ffn, self.hidden), (self.hidden, self.ffn))


MODELS = {
    "Llama-3.2-1B": Model(
        attention=Heads(heads=32, kv_heads=8, head_dim=64, width=2), hidden=2048, ffn=8192, layers=16, vocab=128_256
    ),
    "Llama-3.1-8B": Model(
        attention=Heads(heads=32, kv_heads=8, head_dim=128, width=2), hidden=4096, ffn=14_336, layers=32, vocab=128_256
    ),
    "Qwen3-8B": Model(
        attention=Heads(heads=32, kv_heads=8, head_dim=128, width=2), hidden=4096, ffn=12_288, layers=36, vocab=151_936
    ),
}
"""Shapes of models that benchmarks/gpu.py fills with random weights."""
SPARSE = {
    "Qwen3-30B-A3B": Model(
        attention=Heads(heads=32, kv_heads=4, head_dim=128, width=2), hidden=2048, ffn=768, layers=48, vocab=151_936,
        experts=Experts(128, 8),
    ),
    "Mixtral-8x7B": Model(
        attention=Heads(heads=32, kv_heads=8, head_dim=128, width=2), hidden=4096, ffn=14_336, layers=32, vocab=32_000,
        experts=Experts(8, 2),
    ),
}  # fmt: skip
"""Shapes of models of experts, of which it measures the experts."""


def attention(shape: Heads, slices: Iterable[tuple[int, int]], *, kv: int, multiprocessors: int) -> Cost:
    """`paged_attention`, and `join_splits` where keys are cut.

    Args:
        shape: of the attention.
        slices: (tokens, context after the step) of each sequence.
        kv: bytes of a key's, or a value's, number; 1 has a scale for each row.
        multiprocessors: of the GPU.

    """
    step = np.array(list(slices), dtype=np.int32)
    counts, lengths = step[:, 0], step[:, 1]
    plan = tiles.plan(shape, np.concatenate(([0], np.cumsum(counts))).astype(np.int32), lengths)
    row = shape.head_dim * kv + (4 if kv == 1 else 0)
    total = NOTHING
    for launch in plan.launches:
        here = slice(launch.begin, launch.begin + launch.count)
        tokens = launch.tile.rows // shape.queries
        sequence, block = plan.sequence[here], plan.block[here].astype(np.int64)
        seen = np.minimum(lengths[sequence], lengths[sequence] - counts[sequence] + (block + 1) * tokens)
        keys = int(seen.sum())
        rows = int(np.minimum(counts[sequence] - block * tokens, tokens).sum()) * shape.heads
        cuts = tiles.splits(launch, shape.kv_heads, multiprocessors, 0)
        moved = keys * shape.kv_heads * 2 * row + rows * shape.head_dim * shape.width
        products = 4 * keys * shape.kv_heads * min(launch.tokens, tokens) * shape.queries * shape.head_dim
        if cuts == 1:
            total += Cost(moved + rows * shape.head_dim * shape.width, products)
        else:
            parts = rows * cuts * (shape.head_dim + 2) * 4
            total += Cost(moved + parts, products)
            total += Cost(parts + rows * shape.head_dim * shape.width, 3 * rows * cuts * shape.head_dim)
    return total


def linear(rows: int, outputs: int, inputs: int, *, bits: int, group: int = 0, multiprocessors: int) -> Cost:
    """A product of x [rows, inputs] with weights of so many bits: `path`'s launches; 16 bits are cuBLAS's."""
    ends = 2 * rows * (inputs + outputs)
    products = 2 * rows * inputs * outputs
    if bits == 16:
        return Cost(2 * inputs * outputs + ends, products)
    held = _held(outputs, inputs, bits, group)
    chosen = path(rows=rows, outputs=outputs, inputs=inputs, bits=bits, group=group, multiprocessors=multiprocessors)
    if chosen.tile is None:
        floats = 2 * inputs * outputs
        return Cost(held + floats, 0) + Cost(floats + ends, products)
    if chosen.splits == 1:
        return Cost(held + ends, products)
    parts = 4 * rows * outputs * chosen.splits
    return Cost(held + 2 * rows * inputs + parts, products) + Cost(parts + 2 * rows * outputs, rows * outputs)


def _held(outputs: int, inputs: int, bits: int, group: int) -> int:
    """Bytes of weights in 4 or 8 bits, with their scales."""
    held = inputs * outputs * bits // 8
    if bits == 4:
        block = 2 * half_of(group)
        return held + 4 * outputs * (-(-inputs // block) * block // group)
    return held + 4 * outputs * (inputs // group if group else 1)


def coded(rows: int, outputs: int, inputs: int, *, multiprocessors: int) -> Cost:
    """A product of rows in 8 bits with int8 weights, and the making of their codes. Two whole numbers count as one."""
    made = Cost(3 * rows * inputs + 4 * rows, 2 * rows * inputs)
    chosen = coded_path(rows=rows, outputs=outputs, inputs=inputs, multiprocessors=multiprocessors)
    read = _held(outputs, inputs, 8, 0) + rows * inputs + 4 * rows
    if chosen.splits == 1:
        return made + Cost(read + 2 * rows * outputs, rows * inputs * outputs)
    parts = 4 * rows * outputs * chosen.splits
    return made + Cost(read + parts, rows * inputs * outputs) + Cost(parts + 2 * rows * outputs, rows * outputs)


def experts(model: Model, rows: int, *, bits: int, group: int = 0) -> Cost:
    """The experts of a layer, from the router's scores to the joined rows, where rows choose them by chance."""
    if model.experts is None:
        raise ValueError("a model without experts")
    count, used = model.experts.count, model.experts.used
    pairs, width = rows * used, model.attention.width
    seen = round(count * (1 - (1 - used / count) ** rows))
    total = Cost(4 * count, 0)  # zeros
    total += Cost(rows * count * width + 8 * pairs, 3 * rows * count * used)  # the choice
    total += Cost(8 * pairs, pairs * count)  # the order
    for outputs, inputs in ((2 * model.ffn, model.hidden), (model.hidden, model.ffn)):
        held = _held(outputs, inputs, bits, group) if bits < 16 else 2 * outputs * inputs
        sources = rows if inputs == model.hidden else pairs
        total += Cost(seen * held + width * (sources * inputs + pairs * outputs), 2 * pairs * outputs * inputs)
    total += Cost(3 * pairs * model.ffn * width, 5 * pairs * model.ffn)  # the gates
    return total + Cost((pairs + rows) * model.hidden * width, 2 * pairs * model.hidden)


def between(model: Model, rows: int) -> Cost:
    """The norms, the gates, and what queries, keys and values go through in a layer; and the last addition."""
    shape, width = model.attention, model.attention.width
    qkv = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    gates = NOTHING if model.experts else Cost(3 * rows * model.ffn * width, 5 * rows * model.ffn)
    return (
        Cost(2 * rows * model.hidden * width, 4 * rows * model.hidden)
        + Cost(2 * rows * qkv * width, 6 * rows * qkv)
        + Cost(4 * rows * model.hidden * width, 5 * rows * model.hidden)
        + gates
        + Cost(3 * rows * model.hidden * width, rows * model.hidden)
    )


def decode(  # noqa: PLR0917
    model: Model, batch: int, context: int, bits: int = 16, group: int = 0, kv: int = 2, *, multiprocessors: int = 132
) -> Cost:
    """A step that gives each of so many sequences its next token, from the first layer to the logits."""
    layer = between(model, batch)
    layer += attention(model.attention, [(1, context)] * batch, kv=kv, multiprocessors=multiprocessors)
    for outputs, inputs in model.linears:
        layer += linear(batch, outputs, inputs, bits=bits, group=group, multiprocessors=multiprocessors)
    if model.experts is not None:
        layer += linear(batch, model.experts.count, model.hidden, bits=16, multiprocessors=multiprocessors)
        layer += experts(model, batch, bits=bits, group=group)
    head = 16 if bits == 16 else 8
    return layer * model.layers + linear(batch, model.vocab, model.hidden, bits=head, multiprocessors=multiprocessors)
