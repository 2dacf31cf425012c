"""Part of benchmarks/gpu.py: the experts of a layer, in one launch for each product, and one expert after another."""

import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from gpu_kernels import Machine, packed, timed

from argosy_worker.compute.config import Experts
from argosy_worker.compute.fused_mlp import FusedMlp, GroupedExperts
from argosy_worker.compute.mlp import DenseMlp, ExpertsMlp
from argosy_worker.compute.quant.float_cuda import PlainLinear
from argosy_worker.compute.triton import cost
from argosy_worker.compute.triton.linear import WeightOnly

TINY = cost.Model(
    attention=cost.Heads(heads=4, kv_heads=2, head_dim=32, width=2), hidden=64, ffn=96, layers=1, vocab=320,
    experts=Experts(4, 2),
)  # fmt: skip


def experts(machine: Machine, copy: float) -> Iterator[dict[str, Any]]:
    """Beside the least that the launches can take there is what torch takes, which asks for each expert's rows."""
    models = {"tiny": TINY} if machine.dry else cost.SPARSE
    for name, model in models.items():
        for form, bits, group in (("bf16", 16, 0), ("int8", 8, 0), ("int4 g32", 4, 32)):
            grouped, each = _made(machine, model, bits, group)
            for rows in (1, 8) if machine.dry else (1, 8, 32, 128, 512, 2048):
                x = torch.randn(rows, model.hidden, device=machine.device).bfloat16()
                seconds = timed(machine, [lambda call=grouped, x=x: call(x)] * 4)
                found = cost.experts(model, rows, bits=bits, group=group)
                yield {
                    "model": name, "weights": form, "rows": rows, "us": seconds * 1e6,
                    "of the copy": found.read / seconds / copy, "TFLOP/s": found.operations / seconds / 1e12,
                    "one after another: us": _waiting(machine, lambda call=each, x=x: call(x)) * 1e6,
                }  # fmt: skip
            del grouped, each


def _made(machine: Machine, model: cost.Model, bits: int, group: int) -> tuple[GroupedExperts, ExpertsMlp]:
    """Both on the same random weights."""
    spec = model.experts

    def linear(outputs: int, inputs: int) -> PlainLinear | WeightOnly:
        if bits == 16:
            return PlainLinear(torch.randn(outputs, inputs, device=machine.device).mul_(inputs**-0.5).bfloat16(), None)
        held = packed(machine, outputs, inputs, bits, group)
        return WeightOnly(held, machine.multiprocessors, torch.bfloat16)

    router = PlainLinear(torch.randn(spec.count, model.hidden, device=machine.device).bfloat16(), None)
    parts = [
        (linear(2 * model.ffn, model.hidden), linear(model.hidden, model.ffn)) for _ in range(spec.count)
    ]  # a layer's: a few GB at most
    grouped = GroupedExperts(router, (DenseMlp(*pair, "silu") for pair in parts), spec, "silu")
    return grouped, ExpertsMlp(router, [FusedMlp(*pair, "silu") for pair in parts], spec)


def _waiting(machine: Machine, call, rounds: int = 5) -> float:
    """Median seconds of what cannot be in a graph, as the host waits in it."""
    times = []
    for _ in range(1 if machine.dry else rounds + 1):
        begun = time.perf_counter()
        call()
        if not machine.dry:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return statistics.median(times[-rounds:])
