"""Experts by Triton's kernels: who goes where, their products in each form of weights, and whole layers of them."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels_here import DEVICE

from argosy_worker.compute.config import Clamp, Experts
from argosy_worker.compute.experts import EachExpert, ExpertsSpec, GroupedTriton, choose_experts
from argosy_worker.compute.fused_mlp import GroupedExperts
from argosy_worker.compute.mlp import DenseMlp, ExpertsMlp, route
from argosy_worker.compute.quant.float_cuda import PlainLinear
from argosy_worker.compute.quant.formats import from_plain
from argosy_worker.compute.quant.groups_cuda import WeightOnlyTriton
from argosy_worker.compute.quant.linear import LinearSpec
from argosy_worker.compute.triton.experts import routing
from argosy_worker.compute.triton.machine import Gpu
from argosy_worker.compute.triton.paths import most_tiles, rows_of_tile

SMALL = Gpu(name="one", capability=(8, 0), multiprocessors=4)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("rows", "count", "used", "normalized"),
    [(1, 5, 2, True), (3, 8, 8, False), (40, 6, 1, True), (80, 4, 3, True), (7, 128, 4, False)],
)
def test_pairs_are_sorted_by_expert_and_cut_into_tiles(rows, count, used, normalized):
    spec = Experts(count, used, normalized)
    scores = numbers(rows, count).round(decimals=1)  # some are equal
    chosen, weights = route(scores, spec)
    found = routing(scores.to(DEVICE), spec)
    assert torch.equal(found.chosen.cpu().long(), chosen)
    assert torch.allclose(found.weights.cpu(), weights, atol=1e-6)
    of_pair = chosen.flatten()
    assert torch.equal(found.order.cpu().long(), of_pair.sort(stable=True).indices)
    seen = []
    for expert, begin, end in found.tiles.cpu().t().tolist():
        if expert < 0:
            continue
        pairs = found.order.cpu().long()[begin : min(begin + found.tile_rows, end)]
        assert len(pairs)
        assert set(of_pair[pairs].tolist()) == {expert}
        seen += pairs.tolist()
    assert sorted(seen) == list(range(rows * used))


@pytest.mark.filterwarnings("ignore:invalid value")
def test_scores_that_are_no_numbers_name_experts_all_the_same():
    scores = torch.full((2, 5), torch.nan)
    scores[1, 3] = 0.0
    found = routing(scores.to(DEVICE), Experts(5, 2))
    assert found.chosen.tolist() == [[0, 1], [3, 0]]
    assert found.weights[1].tolist() == [1.0, 0.0]
    assert found.weights[0].isnan().all()


@given(st.lists(st.integers(0, 400), min_size=1, max_size=130))
def test_there_are_tiles_enough_however_pairs_are_spread(counts):
    pairs = sum(counts)
    rows = rows_of_tile(pairs, len(counts))
    assert sum(-(-count // rows) for count in counts) <= most_tiles(pairs, len(counts), rows)


def experts(form, hidden, ffn, count, *, bias, dtype, device):
    """Experts whose weights are held so, and the same with weights as they are meant."""
    made, meant = [], []
    for number in range(count):
        pair = []
        for role, outputs, inputs, seed in (("gate_up", 2 * ffn, hidden, 1), ("down", hidden, ffn, 2)):
            weight = numbers(outputs, inputs, seed=10 * number + seed) * inputs**-0.5
            added = numbers(outputs, seed=10 * number + seed + 2) if bias else None
            if form is None:
                one = PlainLinear(weight.to(device, dtype), None if added is None else added.to(device, dtype))
                pair.append((one, one.weight.float().cpu(), added))
                continue
            asked = linear_spec(role, *form, inputs, outputs)
            one = WeightOnlyTriton(lambda: SMALL).pack(asked, [from_plain(weight)], added, device)
            eye = torch.eye(inputs).bfloat16().to(device)
            without = WeightOnlyTriton(lambda: SMALL).pack(asked, [from_plain(weight)], None, device)
            pair.append((one, without(eye).float().cpu().t(), added))
        made.append([one for one, _, _ in pair])
        meant.append([PlainLinear(w, None if b is None else b.to(dtype).float()) for _, w, b in pair])
    return made, meant


def linear_spec(role, weights, group, inputs, outputs, device="cuda"):  # noqa: PLR0917  # what a linear is
    return LinearSpec(
        role=role, formats=("F32",), in_features=inputs, out_features=outputs, weights=weights, group=group,
        compute="bf16", device=device, isa=frozenset(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("form", "dtype", "rows", "activation", "bias"),
    [
        (None, torch.float32, 7, "silu", False),
        (None, torch.float32, 90, Clamp(1.7, 2.0), True),
        (None, torch.bfloat16, 1, "gelu", True),
        (("int8", 0), torch.bfloat16, 5, "silu", True),
        (("int8", 32), torch.bfloat16, 40, "silu", False),
        (("int4", 32), torch.bfloat16, 5, "silu", False),
        (("int4", 64), torch.bfloat16, 90, Clamp(1.7, 2.0), True),
    ],
)
def test_experts_compute_what_torch_does(form, dtype, rows, activation, bias):
    """Some without a row, some with more than a tile; outputs and inputs that fill no block."""
    hidden, ffn, spec = 192, 64 if form else 72, Experts(4, 2)
    made, meant = experts(form, hidden, ffn, 4, bias=bias, dtype=dtype, device=DEVICE)
    x = numbers(rows, hidden, seed=5).to(dtype)
    router = numbers(4, hidden, seed=6) * hidden**-0.5
    router[3] = 0
    router[0] += 0.1
    grouped = GroupedExperts(
        PlainLinear(router.to(DEVICE), None), (DenseMlp(*pair, activation) for pair in made), spec, activation
    )
    each = ExpertsMlp(PlainLinear(router, None), [DenseMlp(*pair, activation) for pair in meant], spec)
    found = grouped_of(grouped, x)
    close = 1e-4 if dtype == torch.float32 else 3e-2
    assert found.dtype == dtype
    assert torch.allclose(found.float(), each(x.float()), atol=close, rtol=close)


def grouped_of(grouped, x):
    """Of x, whose router computes in fp32: choices are those of the reference."""
    router = grouped._router
    grouped._router = lambda x: router(x.float())
    return grouped(x.to(DEVICE)).cpu()


def asked(device="cuda", weights="none", group=0, count=8, ffn=64):
    return ExpertsSpec(
        experts=Experts(count, 2), activation="silu", gate_up=linear_spec("gate_up", weights, group, 64, 2 * ffn, device),
        down=linear_spec("down", weights, group, ffn, 64, device),
    )  # fmt: skip


def test_who_computes_experts_is_said_with_reasons():
    kernels = (GroupedTriton(lambda: SMALL), EachExpert())
    for weights, group in (("none", 0), ("bf16", 0), ("int8", 0), ("int4", 32)):
        assert choose_experts(asked(weights=weights, group=group), kernels)[0] is kernels[0]
    for spec, reason in (
        (asked("cpu"), "runs on cuda, asked for cpu"),
        (replace(asked(), shared=True), "parts of which other ranks have the rest"),
        (asked(count=2000), "chooses among up to 1024 experts, asked for 2000"),
        (asked(weights="int4", group=128, ffn=96), "groupSize can be"),
        (asked(weights="fp16"), "gate_up: computes floats on CUDA, asked for weights fp16 computed as bf16 on cuda"),
    ):
        kernel, report = choose_experts(spec, kernels)
        assert kernel is kernels[1]
        assert reason in report
    none = GroupedTriton(lambda: "torch finds no CUDA device").can_run(asked())
    assert none == (False, "torch finds no CUDA device")


def test_experts_that_are_held_in_different_ways_are_refused():
    made, _ = experts(None, 32, 32, 2, bias=True, dtype=torch.float32, device=DEVICE)
    made[1][1].bias = None
    with pytest.raises(ValueError, match="expert 1 is not held as those before it"):
        GroupedExperts(
            PlainLinear(torch.zeros(2, 32), None), (DenseMlp(*p, "silu") for p in made), Experts(2, 1), "silu"
        )
    with pytest.raises(TypeError, match="holds no weights that the kernels of experts read"):
        GroupedExperts(None, (DenseMlp(len, len, "silu") for _ in range(2)), Experts(2, 1), "silu")


@settings(max_examples=5, deadline=None)
@given(st.randoms(use_true_random=False))
def test_a_row_goes_where_it_goes_alone(random):
    """However the others are spread, a row's sum is that of its experts, and unused tiles write nothing."""
    spec = Experts(6, 2)
    made, _ = experts(None, 32, 32, 6, bias=False, dtype=torch.float32, device=DEVICE)
    router = numbers(6, 32, seed=random.randrange(1000))
    router[random.randrange(6)] *= 10
    grouped = GroupedExperts(
        PlainLinear(router.to(DEVICE), None), (DenseMlp(*pair, "silu") for pair in made), spec, "silu"
    )
    x = numbers(random.randrange(2, 30), 32, seed=random.randrange(1000)).to(DEVICE)
    together = grouped(x)
    alone = torch.cat([grouped(x[i : i + 1]) for i in (0, len(x) - 1)])
    assert torch.allclose(together[[0, -1]], alone, atol=1e-5)
