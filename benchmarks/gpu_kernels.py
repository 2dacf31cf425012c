"""Parts of benchmarks/gpu.py: the ceilings of this GPU, and kernels against them and against torch's."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel

from argosy_worker.compute.attention.cache import PagedKvCache
from argosy_worker.compute.attention.kv_types import KV_TYPES
from argosy_worker.compute.attention.triton_paged import PagedTriton
from argosy_worker.compute.config import Dense, Full, LayerSpec
from argosy_worker.compute.triton import cost
from argosy_worker.compute.triton.linear import Float8, Packed, by_codes, by_path, pack_float8, pack_grid, pack_int4
from argosy_worker.compute.triton.paths import FLOAT8_FROM, Path, coded_path, path, tile_for
from argosy_worker.compute.triton.rows import Code, Gate, add_norm, add_norm_codes, code_rows, gated, gated_codes
from argosy_worker.core.layout import StepLayout

PAGE = 16


@dataclass(frozen=True)
class Machine:
    """Where it runs. On a CPU, in Triton's interpreter, only that it runs is of interest."""

    device: torch.device
    multiprocessors: int
    room: int
    """Bytes that a part may take."""
    capability: tuple[int, int] = FLOAT8_FROM

    @property
    def dry(self) -> bool:
        return self.device.type == "cpu"


def timed(machine: Machine, calls: list[Callable[[], object]], rounds: int = 5) -> float:
    """Seconds of one of the calls, which lie on memory of their own: from a graph, so that the host does not count."""
    if machine.dry:
        begun = time.perf_counter()
        calls[0]()
        return time.perf_counter() - begun
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in (*calls, calls[0]):  # compiles what is not yet compiled
            call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    times = []
    for _ in range(rounds + 1):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        graph.replay()
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last) / 1e3 / len(calls))
    return statistics.median(times[1:])


def ceilings(machine: Machine) -> Iterator[dict[str, Any]]:
    """A copy, and a product, of which more cannot be had here."""
    count = 1 << (12 if machine.dry else 30)
    source, target = (torch.zeros(count, dtype=torch.uint8, device=machine.device) for _ in range(2))
    seconds = timed(machine, [lambda: target.copy_(source)] * 4)
    yield {"what": "copy", "GB/s": 2 * count / seconds / 1e9}
    size = 64 if machine.dry else 8192
    a, b = (torch.randn(size, size, device=machine.device).bfloat16() for _ in range(2))
    seconds = timed(machine, [lambda: a @ b] * 4)
    yield {"what": "bf16 product", "TFLOP/s": 2 * size**3 / seconds / 1e12}


def attention(machine: Machine, copy: float) -> Iterator[dict[str, Any]]:
    """Decoding, drafts and prompts of an 8B model's heads, beside SDPA with keys and values that lie side by side."""
    model = cost.MODELS["Llama-3.1-8B"].attention
    if machine.dry:
        model = cost.Heads(heads=4, kv_heads=2, head_dim=32, width=2)
    shapes = [(1, 40), (2, 40)] if machine.dry else [(b, c) for c in (512, 1024, 8192) for b in (1, 8, 32, 128, 256)]
    for batch, context in shapes:
        for kv, tokens in (("bf16", 1), ("int8", 1), ("bf16", 4)):
            row = _attend(machine, model, batch, context, tokens, kv, copy)
            if kv == "bf16" and row is not None:
                row.update(_sdpa(machine, model, batch, context, tokens))
            if row is not None:
                yield row
    for tokens in (16,) if machine.dry else (2048, 8192):
        row = _attend(machine, model, 1, tokens, tokens, "bf16", copy)
        if row is not None:
            row["TFLOP/s"] = 2 * tokens * tokens * model.heads * model.head_dim / row["us"] / 1e6
            yield row | _sdpa(machine, model, 1, tokens, tokens)


def _attend(machine, model, batch, context, tokens, kv, copy) -> dict[str, Any] | None:  # noqa: PLR0917
    pages = -(-context // PAGE)
    row_bytes = KV_TYPES[kv].row_bytes(model.head_dim)
    size = batch * pages * PAGE * model.kv_heads * 2 * row_bytes
    layers = max(1, min(8, int(machine.room // size))) if not machine.dry else 1
    if size > machine.room:
        return None
    spec = LayerSpec(
        hidden=64, heads=model.heads, kv_heads=model.kv_heads, head_dim=model.head_dim, ffn=64, rms_eps=1e-5, rope=None,
        attention=Full(), scale=model.head_dim**-0.5, mlp=Dense(),
    )  # fmt: skip
    cache = PagedKvCache(
        layers=layers, blocks=batch * pages, block_size=PAGE, kv_heads=model.kv_heads, head_dim=model.head_dim,
        dtype=torch.bfloat16, device=machine.device, kind=KV_TYPES[kv],
    )  # fmt: skip
    backend = PagedTriton(cache, [spec] * layers, multiprocessors=machine.multiprocessors)
    backend.prepare(layout(batch, context, tokens))
    q, k, v = (
        torch.randn(batch * tokens, heads, model.head_dim, device=machine.device).bfloat16()
        for heads in (model.heads, model.kv_heads, model.kv_heads)
    )
    seconds = timed(machine, [lambda i=i: backend.attend(i, q, k, v) for i in range(layers)])
    found = cost.attention(
        model, [(tokens, context)] * batch, kv=1 if kv == "int8" else 2, multiprocessors=machine.multiprocessors
    )
    return {
        "sequences": batch, "context": context, "tokens": tokens, "kv": kv, "us": seconds * 1e6,
        "GB/s": found.read / seconds / 1e9, "of the copy": found.read / seconds / copy,
    }  # fmt: skip


def layout(batch: int, context: int, tokens: int) -> StepLayout:
    """A step of sequences of one length, whose blocks lie one after another."""
    pages = -(-context // PAGE)
    table = np.arange(1, batch * pages + 1, dtype=np.int32).reshape(batch, pages)
    positions = np.tile(np.arange(context - tokens, context, dtype=np.int32), batch)
    owner = np.repeat(np.arange(batch), tokens)
    return StepLayout(
        positions=positions,
        cu_rows=np.arange(0, batch * tokens + 1, tokens, dtype=np.int32),
        context_lens=np.full(batch, context, dtype=np.int32),
        block_table=table,
        slots=(table[owner, positions // PAGE] * PAGE + positions % PAGE).astype(np.int32),
        block_size=PAGE,
    )


def _sdpa(machine, model, batch, context, tokens) -> dict[str, Any]:
    """Microseconds of torch's attention, by what computes it."""
    found = {}
    size = 4 * batch * context * model.kv_heads * model.head_dim
    if size * 2 > machine.room:
        return found
    q, k, v = (
        torch.randn(batch, heads, n, model.head_dim, device=machine.device).bfloat16()
        for heads, n in ((model.heads, tokens), (model.kv_heads, context), (model.kv_heads, context))
    )
    backends = [SDPBackend.MATH] if machine.dry else [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION]
    for backend in backends:
        try:
            with sdpa_kernel(backend):
                call = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=tokens == context, enable_gqa=True)  # noqa: E731
                found[f"SDPA {backend.name.lower()}: us"] = timed(machine, [call] * 2) * 1e6
        except RuntimeError as error:
            found[f"SDPA {backend.name.lower()}: us"] = f"refused: {str(error).splitlines()[0][:60]}"
    return found


def linears(machine: Machine, copy: float) -> Iterator[dict[str, Any]]:
    """An 8B model's products, in all forms of its weights, each path besides the one that the table takes."""
    shapes = [(96, 64)] if machine.dry else [*cost.MODELS["Llama-3.1-8B"].linears]
    for outputs, inputs in shapes:
        held: dict[str, Any] = {"bf16": torch.randn(outputs, inputs, device=machine.device).bfloat16()}
        for bits, group in ((8, 0), (4, 128), (4, 32)):
            if group <= inputs:
                held[f"int{bits}{f' g{group}' if group else ''}"] = packed(machine, outputs, inputs, bits, group)
        held["fp8"] = _of_float8(machine, outputs, inputs)
        for rows in (1, 16) if machine.dry else (1, 4, 16, 32, 64, 128, 256, 2048):
            x = torch.randn(rows, inputs, device=machine.device).bfloat16()
            row: dict[str, Any] = {"outputs": outputs, "inputs": inputs, "rows": rows}
            for name, weight in held.items():
                if isinstance(weight, Float8):
                    continue
                if isinstance(weight, torch.Tensor):
                    row[f"{name}: us"] = timed(machine, [lambda w=weight, x=x: F.linear(x, w)] * 4) * 1e6
                    continue
                best = path(
                    rows=rows, outputs=outputs, inputs=inputs, bits=weight.bits, group=weight.group,
                    multiprocessors=machine.multiprocessors,
                )  # fmt: skip
                other = Path(None) if best.tile else Path(tile_for(rows, weight.bits, weight.group))
                for label, way in (("", best), (" other way", other)):
                    call = lambda w=weight, x=x, way=way: by_path(x, w, way, torch.bfloat16)  # noqa: E731
                    row[f"{name}{label}: us"] = timed(machine, [call] * 4) * 1e6
                found = cost.linear(
                    rows, outputs, inputs, bits=weight.bits, group=weight.group,
                    multiprocessors=machine.multiprocessors,
                )  # fmt: skip
                if name == "int8":
                    row |= _coded(machine, x, weight, copy)
                row[f"{name}: of the copy"] = found.read / (row[f"{name}: us"] / 1e6) / copy
            yield row | _float8(machine, x, held["fp8"])


def _float8(machine: Machine, x: torch.Tensor, linear: Float8) -> dict[str, Any]:
    """Weights of e4m3 as they are held, and multiplied by rows in e4m3, at each number of rows."""
    held = linear.packed
    way = Path(tile_for(len(x), 8, 0))
    found = {"fp8 as held: us": timed(machine, [lambda: by_path(x, held, way, torch.bfloat16)] * 4) * 1e6}
    if machine.capability >= FLOAT8_FROM:
        codes = code_rows(x, Code.E4M3)
        found["fp8 by fp8: us"] = timed(machine, [lambda: linear.of_codes(codes)] * 4) * 1e6
    return found


def _of_float8(machine: Machine, outputs: int, inputs: int) -> Float8:
    weight = torch.randn(outputs, inputs, device=machine.device).to(torch.float8_e4m3fn)
    packed = pack_float8(weight, torch.full((outputs, 1), 0.01, device=machine.device), None)
    return Float8(packed, machine.multiprocessors, torch.bfloat16, machine.capability)


def _coded(machine: Machine, x: torch.Tensor, weight: Packed, copy: float) -> dict[str, Any]:
    """The product with rows in 8 bits, at each number of rows, and apart from it the making of the codes."""
    way = coded_path(rows=len(x), outputs=weight.outputs, inputs=weight.inputs, multiprocessors=machine.multiprocessors)
    codes = code_rows(x, Code.INT8)
    made = timed(machine, [lambda: code_rows(x, Code.INT8)] * 4)
    seconds = timed(machine, [lambda: by_codes(codes, weight, way, torch.bfloat16)] * 4)
    found = cost.coded(len(x), weight.outputs, weight.inputs, multiprocessors=machine.multiprocessors)
    return {
        "codes: us": made * 1e6, "int8 by int8: us": seconds * 1e6,
        "codes and int8 by int8: of the copy": found.read / (made + seconds) / copy,
    }  # fmt: skip


def packed(machine: Machine, outputs: int, inputs: int, bits: int, group: int) -> Packed:
    """Random weights in 4 or 8 bits."""
    if bits == 8:
        weight = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8, device=machine.device)
        scale = torch.full((1, outputs), 0.01, device=machine.device)
        return Packed(weight=weight, scale=scale, middle=None, bias=None, inputs=inputs, group=0)
    numbers = torch.randint(0, 16, (outputs, inputs), dtype=torch.uint8, device=machine.device)
    grid = torch.full((outputs, inputs // group), 0.01, device=machine.device).bfloat16()
    return Packed(
        weight=pack_int4(numbers, group), scale=pack_grid(grid, inputs, group), middle=pack_grid(grid, inputs, group),
        bias=None, inputs=inputs, group=group,
    )  # fmt: skip


def between(machine: Machine, copy: float) -> Iterator[dict[str, Any]]:
    """Kernels that are one pass over rows."""
    hidden, ffn = (64, 96) if machine.dry else (4096, 14_336)
    for rows in (2,) if machine.dry else (1, 32, 2048):
        x, part = (torch.randn(rows, hidden, device=machine.device).bfloat16() for _ in range(2))
        weight = torch.ones(hidden, device=machine.device).bfloat16()
        wide = torch.randn(rows, 2 * ffn, device=machine.device).bfloat16()
        for name, call, moved in (
            (
                "addition and norm",
                lambda x=x, part=part, weight=weight: add_norm(x, part, weight, 1e-5),
                8 * rows * hidden,
            ),
            ("gates", lambda wide=wide: gated(wide, Gate.SILU), 6 * rows * ffn),
            (
                "addition and norm, in int8",
                lambda x=x, part=part, weight=weight: add_norm_codes(x, part, weight, 1e-5, 1.0, Code.INT8),
                7 * rows * hidden,
            ),
            ("gates, in int8", lambda wide=wide: gated_codes(wide, Gate.SILU, Code.INT8), 5 * rows * ffn),
        ):
            seconds = timed(machine, [call] * 4)
            yield {
                "kernel": name, "rows": rows, "us": seconds * 1e6, "GB/s": moved / seconds / 1e9,
                "of the copy": moved / seconds / copy,
            }  # fmt: skip
