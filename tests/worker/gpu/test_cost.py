"""What launches move and compute, where it can be told by hand."""

import pytest

from argosy_worker.compute.triton import cost


def test_experts_that_rows_share_are_read_once():
    mixtral = cost.SPARSE["Mixtral-8x7B"]
    one, many = (cost.experts(mixtral, rows, bits=16) for rows in (1, 64))
    expert = 2 * 3 * 4096 * 14_336
    assert one.read == pytest.approx(2 * expert, rel=0.01)
    assert many.read == pytest.approx(8 * expert, rel=0.03)
    assert many.operations == pytest.approx(64 * 2 * expert, rel=0.01)
    assert one.launches == many.launches == 7
    four = cost.experts(mixtral, 1, bits=4, group=128)
    assert four.read == pytest.approx(one.read / 4 * 1.0625, rel=0.01)


def test_a_step_of_experts_has_their_router_and_no_other_gates():
    qwen = cost.SPARSE["Qwen3-30B-A3B"]
    step = cost.decode(qwen, 1, 16)
    attending = sum(outputs * inputs for outputs, inputs in qwen.linears)
    experts = 8 * 3 * 2048 * 768
    weights = 2 * (48 * (attending + experts + 128 * 2048) + 2048 * 151_936)
    assert step.read == pytest.approx(weights, rel=0.01)
    with pytest.raises(ValueError, match="without experts"):
        cost.experts(cost.MODELS["Llama-3.2-1B"], 1, bits=16)


def test_rows_in_8_bits_move_less_and_cost_half_the_operations():
    held = cost.linear(256, 14_336, 4096, bits=8, multiprocessors=132)
    made = cost.coded(256, 14_336, 4096, multiprocessors=132)
    assert made.operations == pytest.approx(held.operations / 2, rel=0.01)
    assert made.read == pytest.approx(14_336 * 4096 + 256 * (4 * 4096 + 2 * 14_336), rel=0.01)
