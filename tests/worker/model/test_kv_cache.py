"""Blocks of the KV cache can be taken out and put into another cache; memory that was asked for is taken at once."""

import ctypes
import mmap

import pytest
import torch
from layers import layer_spec

from argosy_api.errors import InvalidArgumentError
from argosy_worker.compute.attention.cache import PagedKvCache
from argosy_worker.compute.attention.paged import PagedTorch
from argosy_worker.compute.attention.rows import Rows
from argosy_worker.core.batch import SequenceSlice
from argosy_worker.core.layout import make_layout

SPECS = (layer_spec(heads=4, kv_heads=2, head_dim=16),) * 2


def cache(blocks=6, layers=2, **more):
    return PagedKvCache(
        layers=layers, blocks=blocks, block_size=8, kv_heads=2, head_dim=16, dtype=torch.float32,
        device=torch.device("cpu"), **more,
    )  # fmt: skip


def step(attention, start, count, table):
    """Attend with fixed numbers for each position."""
    slices = [
        SequenceSlice(request_id="", tokens=[0] * count, start=start, table=table, sample_rows=range(0), params=None)
    ]
    attention.prepare(make_layout(slices, 8))
    torch.manual_seed(3)
    numbers = torch.randn(64, 8, 16)[start : start + count]
    return [attention.attend(i, numbers[:, :4] + i, numbers[:, 4:6] - i, numbers[:, 6:] * 2) for i in range(2)]


def test_exported_blocks_answer_in_another_cache():
    """A sequence's blocks move to other places of another cache, and its next rows get the same answers."""
    source, target = (PagedTorch(cache(), Rows(4, 64), SPECS) for _ in range(2))
    step(source, 0, 16, [3, 1])
    for block, place in ((3, 6), (1, 2)):
        content = source.cache.export(block)
        assert len(content) == source.cache.bytes_per_block == 2 * 2 * 2 * 8 * 16 * 4
        target.cache.import_(place, content)
        assert target.cache.export(place) == content
    assert source.cache.spec == target.cache.spec
    expected, found = step(source, 16, 5, [3, 1, 2]), step(target, 16, 5, [6, 2, 4])
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_nothing_else_is_taken():
    one = cache()
    for block in (0, 7, -1):
        with pytest.raises(InvalidArgumentError, match="blocks 1 to 6"):
            one.export(block)
        with pytest.raises(InvalidArgumentError, match="blocks 1 to 6"):
            one.import_(block, bytes(one.bytes_per_block))
    with pytest.raises(InvalidArgumentError, match="content: has 5 bytes"):
        one.import_(1, b"12345")


def test_a_nan_cannot_come_in():
    """What is masked is multiplied by 0, and 0 times NaN is no 0."""
    one = cache()
    one.import_(1, b"\xff" * one.bytes_per_block)
    assert torch.frombuffer(bytearray(one.export(1)), dtype=torch.float32).isfinite().all()


def resident(tensor):
    """Share of a tensor's pages that are in memory."""
    page, libc = mmap.PAGESIZE, ctypes.CDLL(None, use_errno=True)
    first = -(-tensor.data_ptr() // page) * page
    pages = (tensor.data_ptr() + tensor.nbytes - first) // page
    found = (ctypes.c_ubyte * pages)()
    assert libc.mincore(ctypes.c_void_p(first), ctypes.c_size_t(pages * page), found) == 0
    return sum(byte & 1 for byte in found) / pages


def test_memory_is_touched_on_demand():
    layers = cache(blocks=16_000, touch=True)._layers  # 2 x 66 MB
    assert all(resident(layer) == 1 for layer in layers)
