"""Linear kernels of each precision: what they compute, that a row's bits are its own, and that nothing is rounded twice."""

import pytest
import torch

from argosy_api.errors import ModelUnsupportedError
from argosy_worker.compute.exactness import Check
from argosy_worker.compute.quant.formats import QuantTensor, from_bytes, from_plain
from argosy_worker.compute.quant.isa import cpu_features
from argosy_worker.compute.quant.linear import LinearSpec, choose
from argosy_worker.compute.quant.packer import KERNELS
from argosy_worker.compute.quant.precision import resolve
from argosy_worker.compute.quant.rounding import embedding, float8, int4, int8, power_of_two

CPU = torch.device("cpu")
INPUTS, OUTPUTS = 192, 48


def spec(weights, group=None, *, compute="auto", integers=True, **fields):
    chosen = resolve(weights, group, compute, "cpu", integers=integers)
    base = {
        "role": "down", "formats": ("F32",), "in_features": INPUTS, "out_features": OUTPUTS, "weights": chosen.weights,
        "group": chosen.group, "compute": chosen.compute, "device": "cpu", "isa": cpu_features(),
    }  # fmt: skip
    return LinearSpec(**{**base, **fields})


def weight(seed=0, rows=OUTPUTS):
    return torch.randn(rows, INPUTS, generator=torch.Generator().manual_seed(seed)) * 0.05


def rounded(values, weights, group):
    """What the kernel should multiply by."""
    matrix = from_plain(values)
    if weights == "fp16":
        return values.half().float()
    if weights == "bf16":
        return values.bfloat16().float()
    if weights == "fp8":
        numbers, scale = float8(matrix)
        return numbers.float() * scale
    if weights == "int8":
        numbers, scale = int8(matrix, group)
        return (numbers.float().view(len(values), scale.shape[1], -1) * scale[..., None]).view(values.shape)
    numbers, scale, middle = int4(matrix, group)
    grouped = numbers.float().view(len(values), -1, group) - 8
    return (grouped * scale.float()[..., None] + middle.float()[..., None]).view(values.shape)


CHOICES = [
    ("fp16", None),
    ("bf16", None),
    ("fp8", None),
    ("int8", None),
    ("int8", 32),
    ("int8", 64),
    ("int4", 32),
    ("int4", 64),
]


@pytest.mark.parametrize(("weights", "group"), CHOICES)
@pytest.mark.parametrize("integers", [True, False])
def test_a_kernel_multiplies_by_the_rounded_weights_and_each_row_by_itself(weights, group, integers):
    wanted = spec(weights, group, integers=integers)
    try:
        kernel = choose(wanted, KERNELS).kernel
    except ModelUnsupportedError:
        assert weights == "int8"
        able = {"avx512_vnni", "amx_tile"} & cpu_features()
        assert not able if wanted.compute == "int8" else group
        return
    bias = torch.randn(OUTPUTS)
    parts = [from_plain(weight(1, 32)), from_plain(weight(2, 16))]
    linear = kernel.pack(wanted, parts, bias, CPU)
    x = torch.randn(5, INPUTS)
    held = torch.cat([rounded(weight(1, 32), weights, wanted.group), rounded(weight(2, 16), weights, wanted.group)])
    expected = x @ held.T + bias
    near = 2e-2 if weights == "int4" else 2e-3 if wanted.compute == "int8" else 1e-5
    assert torch.allclose(linear(x), expected, atol=near * float(expected.abs().max()), rtol=0)
    assert Check(2, budget_s=60).linear(linear, INPUTS) is None


def test_int4_keeps_the_numbers_of_4_bit_checkpoints():
    generator = torch.Generator().manual_seed(4)
    numbers = torch.randint(0, 16, (8, 64), generator=generator, dtype=torch.uint8)
    scale, zero = torch.rand(8, 2, generator=generator).bfloat16().float(), torch.full((8, 2), 7.0)
    matrix = QuantTensor("INT4", numbers, 64, scale, zero)
    found, steps, middle = int4(matrix, 32)
    assert torch.equal(found, numbers)
    assert torch.equal(steps.float(), scale)
    assert torch.equal(middle.float(), scale)  # (8 - 7) * scale
    assert not torch.equal(int4(matrix, 64)[0], numbers)  # groups of another size are rounded anew
    raw = torch.randint(0, 256, (8 * 2 * 18,), generator=generator, dtype=torch.uint8)
    raw.view(-1, 18)[:, :2] = torch.tensor([0.5]).half().view(torch.uint8)
    block = from_bytes("Q4_0", raw, 8, 64)
    found, steps, middle = int4(block, 32)
    assert torch.equal((found.float() - 8) * 0.5, block.dequantize())
    assert (steps == 0.5).all()
    assert (middle == 0).all()
    raw = torch.randint(0, 256, (8 * 2 * 20,), generator=generator, dtype=torch.uint8)
    raw.view(-1, 20)[:, :4] = torch.tensor([0.5, -2.0]).half().view(torch.uint8)
    block = from_bytes("Q4_1", raw, 8, 64)
    found, steps, middle = int4(block, 32)
    assert torch.equal((found.float() - 8) * 0.5 + middle.float().repeat_interleave(32, 1), block.dequantize())


def test_8_bits_keep_the_numbers_of_8_bit_checkpoints():
    numbers = torch.randint(-127, 128, (8, 64), dtype=torch.int8)
    scale = torch.rand(8, 1) + 0.1
    found, kept = int8(QuantTensor("INT8", numbers.view(torch.uint8), 64, scale), 0)
    assert torch.equal(found, numbers)
    assert torch.equal(kept, scale)
    raw = torch.randint(0, 256, (8 * 2 * 34,), dtype=torch.uint8)
    raw.view(-1, 34)[:, :2] = torch.tensor([0.25]).half().view(torch.uint8)
    block = from_bytes("Q8_0", raw, 8, 64)
    found, kept = int8(block, 32)
    assert torch.equal(found.float() * 0.25, block.dequantize())
    small = torch.randn(8, 64).to(torch.float8_e4m3fn)
    found, kept = float8(QuantTensor("F8_E4M3", small.view(torch.uint8), 64, scale))
    assert torch.equal(found.float(), small.float())
    assert torch.equal(kept, scale)


def test_bf16_is_exact_in_fp16_beside_a_power_of_two():
    values = (torch.randn(64, 256).abs() + 0.01).mul_(torch.logspace(-30, 30, 64, base=2)[:, None]).bfloat16().float()
    values[:, ::7] *= -(2.0**-20)
    values[0] = 0
    held, scale = power_of_two(values)
    assert torch.equal(held.float() * scale, values)


def test_weights_beyond_fp16_are_refused():
    wanted = spec("fp16")
    with pytest.raises(ModelUnsupportedError, match="does not fit fp16; bf16 holds it"):
        choose(wanted, KERNELS).kernel.pack(wanted, [from_plain(weight() * 1e7)], None, CPU)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (spec("int4", 128), "192 inputs are no multiple of groups of 128; groupSize can be 32, 64"),
        (spec("int4", out_features=40), "40 outputs are no multiple of 16"),
        (spec("int8", 256), "192 inputs are no multiple of groups of 256|VNNI|saturate"),
    ],
)
def test_what_no_kernel_can_run_is_refused_with_the_reasons(wanted, words):
    with pytest.raises(ModelUnsupportedError, match=words):
        choose(wanted, KERNELS)


@pytest.mark.parametrize(
    ("weights", "name", "error"),
    [("int8", "INT8", 5e-3), ("int4", "INT8", 5e-3), ("fp16", "F16", 1e-3), ("none", "F32", 0)],
)
def test_an_embedding_is_no_wider_than_the_linears_ask(weights, name, error):
    table = torch.randn(40, 64)
    found = embedding(from_plain(table), weights)
    assert found.format == name
    assert torch.allclose(found.dequantize(), table, atol=error * float(table.abs().max()), rtol=0)
    assert torch.equal(found.select(torch.tensor([3, 1])), found.dequantize()[[3, 1]])
    narrow = QuantTensor("F8_E4M3", table.to(torch.float8_e4m3fn).view(torch.uint8), 64)
    assert embedding(narrow, weights) is narrow


def test_a_row_of_half_precision_has_its_bits_among_any_number_of_others():
    wanted = spec("fp16")
    linear = choose(wanted, KERNELS).kernel.pack(wanted, [from_plain(weight())], None, CPU)
    x = torch.randn(1, INPUTS)
    for rows in range(1, 70):
        found = linear(x.expand(rows, -1))
        assert all(torch.equal(row, linear(x)[0]) for row in found), rows
