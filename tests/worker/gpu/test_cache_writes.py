"""Queries, keys and values on their way into attention: the fused kernel against torch, step by step."""

import math

import pytest
import torch
import torch.nn.functional as F
from kernels_here import DEVICE

from argosy_worker.compute.attention.cache import PagedKvCache
from argosy_worker.compute.attention.kv_types import KV_TYPES, spread
from argosy_worker.compute.rope import Rotations, rotate
from argosy_worker.compute.rope_spec import Rope
from argosy_worker.compute.triton.attention import E4M3, INT8, NOTHING, PLAIN, Pages, Turn, turn_and_write
from argosy_worker.compute.triton.tiles import Heads

CPU = torch.device("cpu")
CODES = {"int8": INT8, "fp8": E4M3}
SLOTS = [5, 17, 0, 40, 41]


def caches(kind, dtype, dim, kv_heads, page=16):
    return [
        PagedKvCache(
            layers=1, blocks=4, block_size=page, kv_heads=kv_heads, head_dim=dim, dtype=dtype, device=device,
            kind=KV_TYPES[kind],
        )
        for device in (CPU, DEVICE)
    ]  # fmt: skip


def written(kind, dtype, rows, turn=NOTHING):
    """What the kernel leaves in a cache, and the queries."""
    q, k, v = rows
    heads, (count, kv_heads, dim) = 4 if q is None else q.shape[1], k.shape
    _, cache = caches(kind, dtype, dim, kv_heads)
    pages = Pages(elements=cache.elements(0), scales=cache.scales(0), code=CODES.get(kind, PLAIN))
    shape = Heads(heads=heads, kv_heads=kv_heads, head_dim=dim, width=dtype.itemsize)
    slots = torch.tensor(SLOTS[:count], dtype=torch.int32, device=DEVICE)
    moved = (None if t is None else t.to(DEVICE) for t in (q, k, v))
    turned = turn_and_write(*moved, pages, shape, slots, turn)
    return [None if t is None else t.cpu() for t in (turned, cache.elements(0), cache.scales(0))]


def stored(kind, dtype, k, v, page=16):
    """What torch leaves there: keys as `PagedTorch` gives them."""
    rows, kv_heads, dim = k.shape
    plain, _ = caches(kind, dtype, dim, kv_heads)
    if plain.coded:
        k = spread(k)
    heads = torch.arange(2 * kv_heads)
    slots = torch.tensor(SLOTS[:rows])[:, None]
    at = (slots // page * (2 * kv_heads) + heads) * page + slots % page
    plain.write(0, at.ravel(), torch.cat((k, v), 1))
    return plain.elements(0), plain.scales(0)


@pytest.mark.parametrize("kind", KV_TYPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("kv_heads", "dim"), [(2, 64), (9, 24), (3, 96)])
def test_what_is_stored_has_the_bits_of_torch(kind, dtype, kv_heads, dim):
    torch.manual_seed(0)
    k, v = (torch.randn(5, kv_heads, dim).mul(10 ** torch.linspace(-6, 4, dim)).to(dtype) for _ in range(2))
    k[1, 0], v[2, 1] = 0, 0
    k[0, 1, 3], v[3, 0, 2], v[3, 0, 3], k[4, 1, 0] = math.nan, math.inf, -math.inf, 1e-30
    _, elements, scales = written(kind, dtype, (None, k, v))
    expected, expected_scales = stored(kind, dtype, k, v)
    assert torch.equal(elements, expected)
    assert (scales is None) == (expected_scales is None)
    if scales is not None and expected_scales is not None:
        assert torch.equal(scales, expected_scales)


def test_all_codes_of_e4m3():
    """Numbers of all sizes, halfway cases too: a row's scale is 1 where its largest is 448."""
    codes = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    between = (codes[1:] + codes[:-1]) / 2
    some = torch.cat((codes, between, -codes, -between)).view(-1, 11)  # 46 rows
    v = torch.zeros(5, 10, 16)
    v.view(-1, 16)[: len(some), :11] = some
    v[:, :, 15] = 448
    _, elements, _ = written("fp8", torch.float32, (None, torch.ones_like(v), v))
    expected, _ = stored("fp8", torch.float32, torch.ones_like(v), v)
    assert torch.equal(elements, expected)


@pytest.mark.parametrize("kind", ["bf16", "int8"])
@pytest.mark.parametrize(
    ("dim", "dims", "norm", "dtype"),
    [
        (64, 64, False, torch.float32),
        (64, 64, True, torch.float32),
        (32, 16, True, torch.bfloat16),
        (80, 40, False, torch.float32),
        (32, 0, True, torch.float32),
    ],
)
def test_norm_and_rotation_before_the_turn(kind, dim, dims, norm, dtype):
    torch.manual_seed(1)
    rows, heads, kv_heads = 3, 6, 2
    qkv = torch.randn(rows, heads + 2 * kv_heads, dim).to(dtype)
    q, k, v = qkv.split((heads, kv_heads, kv_heads), 1)
    weights = [torch.rand(dim).add(0.5).to(dtype) for _ in range(2)] if norm else [None, None]
    rotation = Rotations(Rope(10_000.0, dims), CPU)(torch.tensor([3, 700, 11]), dtype) if dims else None
    turn = Turn(
        cos=None if rotation is None else rotation.cos.to(DEVICE),
        sin=None if rotation is None else rotation.sin.to(DEVICE),
        q_weight=None if weights[0] is None else weights[0].to(DEVICE),
        k_weight=None if weights[1] is None else weights[1].to(DEVICE),
        eps=1e-5,
    )
    turned, elements, _ = written(kind, dtype, (q, k, v), turn)

    def plainly(x, weight):
        x = x if weight is None else F.rms_norm(x, (dim,), weight, 1e-5)
        x = x if rotation is None else rotate(x, rotation)
        return spread(x) if kind == "int8" else x

    close = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 4e-2, "rtol": 2e-2}
    assert torch.allclose(turned.float(), plainly(q, weights[0]).float(), **close)
    normed = k if weights[1] is None else F.rms_norm(k, (dim,), weights[1], 1e-5)
    expected, _ = stored(kind, dtype, normed if rotation is None else rotate(normed, rotation), v)
    step = 1 if kind == "int8" else 2**-6  # a code more or less, where the last bit before it differs
    assert ((elements.float() - expected.float()).abs() <= step * expected.abs().clamp(min=1)).all()
