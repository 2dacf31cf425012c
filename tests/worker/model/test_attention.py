"""Attention against a plain implementation, its bits in company and in chunks, its memory, and who computes it."""

import pytest
import torch
from layers import layer_spec
from torch.utils._python_dispatch import TorchDispatchMode

from argosy_api.errors import ModelUnsupportedError
from argosy_api.params import SamplingParams
from argosy_worker.compute.attention import softmax
from argosy_worker.compute.attention.cache import PagedKvCache
from argosy_worker.compute.attention.kernels import KERNELS, AttentionSpec, choose_attention
from argosy_worker.compute.attention.kv_types import KV_TYPES
from argosy_worker.compute.attention.paged import PagedTorch
from argosy_worker.compute.attention.rows import Rows, Shape, choose
from argosy_worker.compute.attention.tiles import make_tiles, tile_size
from argosy_worker.compute.config import Full, Window, window_of
from argosy_worker.core.batch import SequenceSlice
from argosy_worker.core.layout import make_layout

CPU = torch.device("cpu")
DIM = 32


def exact(spec, size):
    """Sizes whose products have the same bits here, as the runner takes them: on some processors one size only."""
    shape = Shape(kv_heads=spec.kv_heads, queries=spec.heads // spec.kv_heads, head_dim=DIM, tile=tile_size(size))
    found, problem = choose(shape, torch.get_num_threads())
    assert problem is None
    return found


class World:
    """Sequences of random queries, keys and values over one cache, whose blocks lie in disorder."""

    def __init__(self, lengths, specs, *, size=16, rows=None, stripe=16, sinks=None, kind="fp32", seed=0):
        self.specs, self.size = specs, size
        rows = rows or exact(specs[0], size)
        self.heads, self.kv_heads = specs[0].heads, specs[0].kv_heads
        generator = torch.Generator().manual_seed(seed)
        self.q, self.k, self.v = (
            [torch.randn(n, heads, DIM, generator=generator) * 2 for n in lengths]
            for heads in (self.heads, self.kv_heads, self.kv_heads)
        )
        counts = [-(-n // size) for n in lengths]
        order = (torch.randperm(sum(counts), generator=generator) + 1).tolist()
        self.tables = [[order.pop() for _ in range(count)] for count in counts]
        cache = PagedKvCache(
            layers=len(specs), blocks=sum(counts), block_size=size, kv_heads=self.kv_heads, head_dim=DIM,
            dtype=torch.float32, device=CPU, kind=KV_TYPES[kind],
        )  # fmt: skip
        self.attention, self.sinks = PagedTorch(cache, rows, specs, stripe=stripe), sinks

    def step(self, *parts):
        """Rows of (sequence, begin, end) in one step: for each layer a list of [rows, heads, dim]."""
        slices = [
            SequenceSlice(
                request_id="r",
                tokens=[0] * (end - begin),
                start=begin,
                table=self.tables[i],
                sample_rows=range(0),
                params=SamplingParams(),
            )
            for i, begin, end in parts
        ]
        self.attention.prepare(make_layout(slices, self.size))
        q, k, v = (torch.cat([t[i][begin:end] for i, begin, end in parts]) for t in (self.q, self.k, self.v))
        found = [self.attention.attend(layer, q, k, v, self.sinks) for layer in range(len(self.specs))]
        return [out.split([end - begin for _, begin, end in parts]) for out in found]

    def expected(self, spec, i):
        """softmax(q k^T) v in fp64."""
        keys, values = (t[i].double().repeat_interleave(self.heads // self.kv_heads, 1) for t in (self.k, self.v))
        scores = torch.einsum("qhd,khd->hqk", self.q[i].double(), keys) * spec.scale
        if spec.softcap:
            scores = spec.softcap * (scores / spec.softcap).tanh()
        position = torch.arange(len(keys))
        hidden = position[None] > position[:, None]
        if spec.window:
            hidden |= position[None] <= position[:, None] - spec.window
        scores.masked_fill_(hidden, -torch.inf)
        if self.sinks is not None:
            scores = torch.cat((scores, self.sinks.double()[:, None, None].expand(-1, len(keys), 1)), -1)
        weights = scores.softmax(-1)[..., : len(keys)]
        return torch.einsum("hqk,khd->qhd", weights, values)


LENGTHS = (1, 131, 301, 70, 300, 256, 700)
LAST = [(0, 0, 1), (1, 130, 131), (2, 300, 301), (3, 0, 70), (4, 100, 300), (5, 255, 256), (6, 690, 700)]
"""Rows of the second of two steps: generating and prompts, mixed."""


@pytest.mark.parametrize(
    ("size", "heads", "kv_heads", "rows", "stripe"),
    [
        (1, 4, 4, Rows(4, 64), 2),
        (8, 8, 1, Rows(4, 64), 16),
        (16, 9, 3, Rows(4, 64), 2),
        (16, 8, 1, Rows(16, 2), 16),
        (48, 9, 3, Rows(4, 64), 16),
        (256, 4, 4, Rows(4, 64), 2),
    ],
)
def test_attention_equals_plain_softmax(size, heads, kv_heads, rows, stripe):
    """Full attention and windows, soft-capped and with sinks, over shuffled blocks, in two steps."""
    base = {"heads": heads, "kv_heads": kv_heads, "head_dim": DIM}
    specs = [
        layer_spec(**base),
        layer_spec(**base, attention=Window(1)),
        layer_spec(**base, attention=Window(100), scale=0.3, softcap=5.0),
        layer_spec(**base, attention=Window(290)),
    ]
    for sinks in (None, torch.linspace(-3, 9, heads)):
        world = World(LENGTHS, specs, size=size, rows=rows, stripe=stripe, sinks=sinks)
        world.step(*[(i, 0, begin) for i, begin, _ in LAST if begin])
        for spec, found in zip(specs, world.step(*LAST), strict=True):
            for (i, begin, end), out in zip(LAST, found, strict=True):
                assert torch.allclose(out.double(), world.expected(spec, i)[begin:end], atol=2e-5), (spec, i)


VARIED = [
    layer_spec(heads=6, kv_heads=2, head_dim=DIM, **more)
    for more in (
        {},
        {"softcap": 20.0},
        {"attention": Window(150)},
        {"attention": Window(17), "softcap": 3.0},
        {"attention": Window(400)},
    )
]


@pytest.mark.parametrize(
    ("kind", "stripe", "sinks"),
    [
        ("fp32", 1, None),
        ("fp32", 2, torch.linspace(-2, 5, 6)),
        ("fp32", 16, None),
        *((kind, 2, None) for kind in KV_TYPES if kind != "fp32"),
    ],
)
def test_rows_have_the_same_bits_in_every_company_and_chunk(kind, stripe, sinks):
    lengths = (500, 1, 130, 270, 64)
    alone = World(lengths, VARIED, stripe=stripe, sinks=sinks, kind=kind)
    rows = {(i, layer): out for i, n in enumerate(lengths) for layer, (out,) in enumerate(alone.step((i, 0, n)))}
    for chunk in (7, 16, 64, 300):
        world = World(lengths, VARIED, stripe=stripe, sinks=sinks, kind=kind)
        for begin in range(0, max(lengths), chunk):
            parts = [(i, begin, min(begin + chunk, n)) for i, n in enumerate(lengths) if begin < n]
            for layer, found in enumerate(world.step(*parts)):
                for (i, first, after), out in zip(parts, found, strict=True):
                    assert torch.equal(out, rows[i, layer][first:after])


@pytest.mark.parametrize(
    ("kind", "stripe", "pairs"),
    [("fp32", 1, 7), ("fp32", 2, 1), ("fp32", 16, 7), *((kind, 2, 1000) for kind in KV_TYPES)],
)
def test_token_by_token_has_the_same_bits_too(monkeypatch, kind, stripe, pairs):
    """Generated rows, in groups of all sizes, are those of a prompt."""
    monkeypatch.setattr("argosy_worker.compute.attention.tiles.PAIR_NUMBERS", pairs * 2 * 128 * DIM)
    lengths, sinks = (690, 40, 130, 389, 63, 258), torch.linspace(-2, 5, 6)
    longer = [n + 4 for n in lengths]
    whole = World(longer, VARIED, stripe=stripe, sinks=sinks, kind=kind)
    expected = whole.step(*[(i, 0, n) for i, n in enumerate(longer)])
    world = World(longer, VARIED, stripe=stripe, sinks=sinks, kind=kind)
    world.step(*[(i, 0, n) for i, n in enumerate(lengths)])
    for more in range(4):
        found = world.step(*[(i, n + more, n + more + 1) for i, n in enumerate(lengths)])
        for layer, outs in enumerate(found):
            for i, out in enumerate(outs):
                assert torch.equal(out[0], expected[layer][i][lengths[i] + more])


def test_blocks_that_a_window_has_passed_may_be_gone():
    """Their place in the table is the null block's, and somebody else writes to them."""
    specs = [s for s in VARIED if s.window]
    window = window_of(specs)
    world, other = (World((900, 16), specs, stripe=2) for _ in range(2))
    world.step((0, 0, 880))
    expected = world.step((0, 880, 899)), world.step((0, 899, 900))
    other.step((0, 0, 880))
    passed = (880 - window + 1) // 16
    stolen = other.tables[0][0]
    other.tables[0][:passed] = [0] * passed
    other.tables[1] = [stolen]
    other.step((1, 0, 16))
    found = other.step((0, 880, 899)), other.step((0, 899, 900))
    for before, after in zip(expected, found, strict=True):
        assert all(torch.equal(a[0], b[0]) for a, b in zip(before, after, strict=True))


class Barred(TorchDispatchMode):
    """Refuses torch's fused attention, whatever it comes to on this device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "scaled_dot_product" not in str(func), func
        assert "flash_attention" not in str(func), func
        return func(*args, **(kwargs or {}))


def test_the_bar_stops_what_it_is_for():
    q = torch.ones(1, 2, 3, 8)
    with Barred(), pytest.raises(AssertionError, match="scaled_dot_product"):
        torch.nn.functional.scaled_dot_product_attention(q, q, q)


@pytest.mark.parametrize("kind", KV_TYPES)
def test_torchs_fused_attention_is_not_used(kind):
    """Its rows differ with the number of query rows and with masked padding, so none of our promises would hold."""
    for sinks in (None, torch.linspace(-2, 5, 6)):
        world = World((500, 300), VARIED, stripe=2, sinks=sinks, kind=kind)
        with Barred():
            world.step((0, 0, 400), (1, 0, 299))
            world.step((0, 400, 500), (1, 299, 300))


def test_a_chunk_is_aligned_with_the_end_of_its_context_not_with_its_beginning():
    """Where there are fewer rows than keys a causal mask has two readings; the first row of a chunk sees all before it."""
    spec = layer_spec(heads=4, kv_heads=2, head_dim=DIM)
    world = World((300,), [spec], stripe=2)
    world.step((0, 0, 200))
    ((found,),) = world.step((0, 200, 300))
    q, k, v = (t[0].double().transpose(0, 1)[None] for t in (world.q, world.k, world.v))
    position = torch.arange(300)
    lower_right = position[None] <= position[200:, None]
    sdpa = torch.nn.functional.scaled_dot_product_attention
    expected = sdpa(q[:, :, 200:], k, v, attn_mask=lower_right, scale=spec.scale, enable_gqa=True)
    upper_left = sdpa(q[:, :, 200:], k, v, is_causal=True, scale=spec.scale, enable_gqa=True)
    assert torch.allclose(found.double(), expected[0].transpose(0, 1), atol=2e-5)
    assert not torch.allclose(found.double(), upper_left[0].transpose(0, 1), atol=0.1)


@pytest.mark.parametrize("left", [1e30, torch.nan, torch.inf])
@pytest.mark.parametrize("kind", KV_TYPES)
def test_positions_that_a_row_does_not_see_may_hold_anything(kind, left):
    """A score of minus infinity times no number would be none: what is hidden is left out, not multiplied by nothing."""
    specs = [
        layer_spec(heads=4, kv_heads=2, head_dim=DIM),
        layer_spec(heads=4, kv_heads=2, head_dim=DIM, attention=Window(5)),
    ]
    found = []
    for spoilt in (False, True):
        world = World((40, 40), specs, stripe=2, kind=kind)
        if spoilt:  # whoever had the blocks before left what is beyond 20 in them
            for t in (world.k, world.v):
                t[0][20:] = left
            world.step((0, 20, 40))
        world.step((1, 0, 40), (0, 0, 19))
        found.append([out[0] for out in world.step((0, 19, 20))])
    assert all(out.isfinite().all() for out in found[1])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_row_of_which_all_keys_are_hidden_is_nothing_and_no_nan():
    """By a stripe that it does not see: the sums stay as they are; with a sink alone the mean is 0."""
    before = softmax.nothing(torch.empty(2, 3, DIM))
    hidden = torch.full((2, 3, 16), -torch.inf)
    highest = torch.maximum(before.highest, hidden.amax(-1, keepdim=True).clamp(min=softmax.LOWEST))
    weights = softmax.weigh(hidden, highest)
    assert torch.equal(weights, torch.zeros(2, 3, 16))
    more = softmax.Sums(highest, weights.sum(-1, keepdim=True), weights @ torch.ones(2, 16, DIM))
    sums = softmax.add(before, more)
    assert all(torch.equal(part, old) for part, old in zip(sums, before, strict=True))
    assert torch.equal(softmax.finish(sums, torch.zeros(2, 3, 1)), torch.zeros(2, 3, DIM))
    some = softmax.Sums(torch.randn(2, 3, 1), torch.rand(2, 3, 1) + 1, torch.randn(2, 3, DIM))
    unseen = softmax.Sums(some.highest, torch.zeros(2, 3, 1), torch.zeros(2, 3, DIM))
    assert all(torch.equal(part, old) for part, old in zip(softmax.add(some, unseen), some, strict=True))


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that an operation makes."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor) and not any(tensor is given for given in args):
                self.numbers = max(self.numbers, tensor.numel())
        return out


def test_memory_does_not_grow_with_the_context():
    """The largest tensor of a step at a context of 32k is as at 4k, for prompts and for generating."""
    spec = [layer_spec(heads=4, kv_heads=1, head_dim=DIM)]
    world = World([32768] * 4, spec, seed=3)
    largest = []
    for start in (4096, 32768 - 256):
        with Largest() as seen:
            world.step((0, start, start + 200), (1, start, start + 1), (2, start, start + 1), (3, start, start + 1))
        largest.append(seen.numbers)
    assert largest[0] == largest[1]
    assert largest[0] <= 16 * 128 * 64 * 4  # scores of a stripe for 64 queries of 4 heads


def test_heads_that_share_keys_are_not_given_copies_of_them():
    """Where one head of keys serves 32 of queries, no tensor of a step is larger than the keys of both sequences."""
    world = World([2048] * 2, [layer_spec(heads=32, kv_heads=1, head_dim=DIM)], rows=Rows(4, 64), seed=3)
    with Largest() as seen:
        world.step((0, 2047, 2048), (1, 2047, 2048))
    assert seen.numbers <= 2 * 2048 * DIM


def test_a_window_visits_its_own_tiles_only():
    """A row at 30,000 with a window of 1,000 reads 9 tiles of 128."""
    slices = [
        SequenceSlice(
            request_id="r", tokens=[0] * n, start=30_000, table=range(1, 2000), sample_rows=range(0), params=None
        )
        for n in (1, 2)
    ]
    tiles = make_tiles(
        make_layout(slices, 16), kv_heads=1, head_dim=DIM, rows=Rows(4, 64), device=CPU, windows=(0, 1000)
    )
    pages = {
        window: (
            sum(len(stripe.keys) for group in view.singles for stripe in group.stripes),
            sum(len(stripe.keys) for stripes in view.chunks for stripe in stripes),
        )
        for window, view in tiles.views.items()
    }
    assert pages[1000] == (9 * 8, 9 * 8)
    assert pages[0] == (235 * 8, 235 * 8)


def test_the_window_of_a_model_is_its_widest():
    full, narrow, wide = (
        layer_spec(heads=1, kv_heads=1, head_dim=2, attention=a) for a in (Full(), Window(3), Window(9))
    )
    assert window_of([narrow, wide, narrow]) == 9
    assert window_of([narrow, full]) == 0


def test_who_computes_attention_is_said_with_reasons():
    class Choosy:
        name = "choosy"

        def refusal(self, spec):
            return f"runs on cuda, asked for {spec.device}"

    plain, other = (layer_spec(heads=4, kv_heads=n, head_dim=16) for n in (2, 4))
    kernel, report = choose_attention(AttentionSpec(layers=(plain,), device="cpu"), (Choosy(), KERNELS[-1]))
    assert kernel.name == "paged-torch"
    assert report == "paged-torch; refused: choosy (runs on cuda, asked for cpu)"
    with pytest.raises(ModelUnsupportedError, match=r"layers of one shape, .*\(4, 2, 16\), \(4, 4, 16\)"):
        choose_attention(AttentionSpec(layers=(plain, other), device="cpu"))
