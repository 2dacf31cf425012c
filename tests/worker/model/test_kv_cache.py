"""Blocks of the KV cache can be taken out and put into another cache; memory that was asked for is taken at once."""

import ctypes
import mmap
from typing import get_args

import pytest
import torch
from layers import layer_spec

from argosy_api.errors import InvalidArgumentError, ModelUnsupportedError
from argosy_api.resource import QuantizationSpec
from argosy_worker.compute.attention.cache import PagedKvCache
from argosy_worker.compute.attention.kv_types import KV_TYPES, kv_type, spread
from argosy_worker.compute.attention.paged import PagedTorch
from argosy_worker.compute.attention.rows import Rows
from argosy_worker.core.batch import SequenceSlice
from argosy_worker.core.host import Move
from argosy_worker.core.layout import make_layout
from argosy_worker.models import load_model

SPECS = (layer_spec(heads=4, kv_heads=2, head_dim=16),) * 2


def cache(blocks=6, layers=2, kind="fp32", **more):
    return PagedKvCache(
        layers=layers, blocks=blocks, block_size=8, kv_heads=2, head_dim=16, dtype=torch.float32,
        device=torch.device("cpu"), kind=KV_TYPES[kind], **more,
    )  # fmt: skip


ROW_BYTES = {"fp32": 64, "fp16": 32, "bf16": 32, "int8": 20, "fp8": 20}
"""Of 16 numbers, and a scale of 4 bytes."""


def step(attention, start, count, table):
    """Attend with fixed numbers for each position."""
    slices = [
        SequenceSlice(request_id="", tokens=[0] * count, start=start, table=table, sample_rows=range(0), params=None)
    ]
    attention.prepare(make_layout(slices, 8))
    torch.manual_seed(3)
    numbers = torch.randn(64, 8, 16)[start : start + count]
    return [attention.attend(i, numbers[:, :4] + i, numbers[:, 4:6] - i, numbers[:, 6:] * 2) for i in range(2)]


@pytest.mark.parametrize("kind", KV_TYPES)
def test_exported_blocks_answer_in_another_cache(kind):
    """A sequence's blocks move to other places of another cache, and its next rows get the same answers."""
    source, target = (PagedTorch(cache(kind=kind), Rows(4, 64), SPECS) for _ in range(2))
    step(source, 0, 16, [3, 1])
    for block, place in ((3, 6), (1, 2)):
        content = source.cache.export(block)
        assert len(content) == source.cache.bytes_per_block == 2 * 2 * 2 * 8 * ROW_BYTES[kind]
        target.cache.import_(place, content)
        assert target.cache.export(place) == content
    assert source.cache.spec == target.cache.spec
    expected, found = step(source, 16, 5, [3, 1, 2]), step(target, 16, 5, [6, 2, 4])
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("kind", KV_TYPES)
@pytest.mark.parametrize("staged", [1, 3, 100])
def test_blocks_go_to_host_memory_and_come_back(kind, staged):
    """In order, whatever is copied at the same time: out and back, a slot given away twice, two blocks exchanged."""
    one = cache(kind=kind, host_blocks=4)
    one._host._staged = staged
    generator = torch.Generator().manual_seed(5)
    for layer in range(2):
        one.write(layer, torch.arange(32, 224), torch.randn(48, 4, 16, generator=generator))
    before = {block: one.export(block) for block in range(1, 7)}
    assert len(set(before.values())) == 6
    out, back = (lambda block, slot: Move(block, slot, out=True)), (lambda slot, block: Move(block, slot, out=False))
    one.move([out(1, 0), out(2, 1), out(3, 2), out(4, 1), back(0, 2), back(2, 1), back(1, 1), back(0, 6), out(6, 3)])
    assert [one.export_host(slot) for slot in range(4)] == [before[i] for i in (1, 4, 3, 1)]
    assert [one.export(block) for block in range(1, 7)] == [before[i] for i in (4, 1, 3, 4, 5, 1)]
    one.move([])


def test_host_memory_is_taken_at_once_or_refused():
    assert resident(cache(host_blocks=4000)._host._slots) == 1
    with pytest.raises(ModelUnsupportedError, match=r"engine.kvCacheHostMemory: \d+ bytes of memory are not to be had"):
        cache(host_blocks=1 << 45)


def test_nothing_else_is_taken():
    one = cache()
    for block in (0, 7, -1):
        with pytest.raises(InvalidArgumentError, match="blocks 1 to 6"):
            one.export(block)
        with pytest.raises(InvalidArgumentError, match="blocks 1 to 6"):
            one.import_(block, bytes(one.bytes_per_block))
    with pytest.raises(InvalidArgumentError, match="content: has 5 bytes"):
        one.import_(1, b"12345")


@pytest.mark.parametrize("kind", KV_TYPES)
@pytest.mark.parametrize("byte", [b"\xff", b"\x7f", b"\x7c"])
def test_what_is_no_number_cannot_come_in(kind, byte):
    """What is masked is multiplied by 0, and 0 times NaN or infinity is no 0."""
    one = cache(kind=kind)
    one.import_(1, byte * one.bytes_per_block)
    worst = torch.tensor([torch.nan, torch.inf, -torch.inf, 3e38, -3e38, 1e5, 1e-40, 0.0]).repeat(2)
    one.write(0, torch.arange(64, 96), worst.expand(8, 4, 16))
    assert one.pages(0, torch.arange(1 * 4, 3 * 4)).isfinite().all()


@pytest.mark.parametrize(("kind", "error"), [("fp32", 0), ("fp16", 2**-11), ("bf16", 2**-8), ("int8", 1), ("fp8", 1)])
def test_what_is_held_is_near_to_what_was_written(kind, error):
    """Half a unit in the last place; of int8 half a step, which is a 127th of a row's largest; of fp8 either."""
    torch.manual_seed(1)
    rows = torch.randn(32, 16) * torch.logspace(-3, 3, 32)[:, None]
    one = cache(kind=kind)
    one.write(0, torch.arange(32, 64), rows.view(8, 4, 16))
    held = one.pages(0, torch.arange(4, 8)).view(32, 16)
    largest = rows.abs().amax(-1, keepdim=True)
    bound = {
        "int8": largest / 127 * 0.5001,
        "fp8": torch.maximum(rows.abs() * 2**-4, largest / 448 * 2**-10) * 1.0001,
    }.get(kind, rows.abs() * error)
    assert (held - rows).abs().le(bound).all()


def test_every_code_of_fp8_is_read_as_torch_reads_it():
    codes = torch.arange(256, dtype=torch.uint8)
    codes = codes[(codes & 0x7F) != 0x7F]  # NaN, which nothing makes
    expected = codes.view(torch.float8_e4m3fn).float() * 0.37
    found = KV_TYPES["fp8"].decode(codes.view(torch.int8), torch.tensor(0.37), torch.float32)
    assert torch.equal(found, expected)


def test_types_go_by_the_names_of_the_resource():
    assert set(KV_TYPES) == set(get_args(QuantizationSpec.model_fields["kv_cache"].annotation)) - {"auto"}
    assert kv_type("auto", torch.float32).name == "fp32"
    assert kv_type("auto", torch.bfloat16).name == "bf16"
    with pytest.raises(
        ModelUnsupportedError, match=r"quantization.kvCache 'int4' is unknown; it can: auto, fp32, fp16"
    ):
        kv_type("int4", torch.float32)


@pytest.mark.parametrize("kind", KV_TYPES)
def test_sizes_follow_the_type(smollm_path, kind):
    """SmolLM2: 30 layers x 2 x 3 heads rows of 64 numbers for a token."""
    model = load_model(smollm_path, kv_cache=kind, device="cpu", threads=2)
    row = {"fp32": 256, "fp16": 128, "bf16": 128, "int8": 68, "fp8": 68}[kind]
    assert model.kv_bytes_per_block(16) == 16 * 180 * row
    assert model.make_runner(3, 16).store.bytes_per_block == 16 * 180 * row


def test_the_type_is_part_of_the_fingerprint(smollm_path, int8_model):
    model = load_model(smollm_path, kv_cache="int8", device="cpu", threads=2)
    assert (model.facts.kv_dtype, int8_model.facts.kv_dtype) == ("int8", "fp16")
    assert model.kernels["kv_cache"] == "int8 (as asked for)"
    assert int8_model.kernels["kv_cache"] == "fp16 (auto)"
    assert model.facts.fingerprint != int8_model.facts.fingerprint


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


@pytest.mark.parametrize("width", [64, 96, 128, 7])
def test_rows_that_are_turned_alike_have_the_product_that_they_had(width):
    rows = torch.randn(33, 2, width, generator=torch.Generator().manual_seed(1))
    turned = spread(rows)
    torch.testing.assert_close(turned @ turned.transpose(1, 2), rows @ rows.transpose(1, 2), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(spread(turned), rows, rtol=1e-5, atol=1e-5)  # turned twice is as it was
    for i in (0, 7, 32):
        assert torch.equal(spread(rows[i : i + 1]), turned[i : i + 1])


def test_one_large_channel_is_spread_over_all():
    rows = torch.zeros(1, 64)
    rows[0, 5] = 80.0
    assert spread(rows).abs().unique().tolist() == [10.0]
