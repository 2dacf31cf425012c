"""Parts of benchmarks/gpu.py: whole steps of the engine on random weights, and transformers beside it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gpu_kernels import PAGE, Machine
from gpu_report import BF16

from argosy_api.params import SamplingParams
from argosy_worker.compute.attention.cache import PagedKvCache
from argosy_worker.compute.attention.kv_types import kv_type
from argosy_worker.compute.attention.triton_paged import PagedTriton
from argosy_worker.compute.config import DecoderConfig
from argosy_worker.compute.fused import FusedLayers
from argosy_worker.compute.graphs import CudaRecord, Graphs
from argosy_worker.compute.quant.formats import QuantTensor
from argosy_worker.compute.quant.precision import Precision
from argosy_worker.compute.torch_runner import TorchRunner
from argosy_worker.compute.triton import cost
from argosy_worker.core.batch import PLACEHOLDER, SequenceSlice, StepBatch
from argosy_worker.models.builder import Builder
from argosy_worker.sampling.sampler import CUDA

GREEDY = SamplingParams(temperature=0, max_tokens=1)
DRAWN = SamplingParams(temperature=0.8, top_p=0.95, top_k=50, max_tokens=1)
DRAFT, RIGHT = 4, 0.7
AHEAD = 8
"""Steps that follow each other without a pause."""
TINY = cost.Model(
    attention=cost.Heads(heads=4, kv_heads=2, head_dim=32, width=2), hidden=64, ffn=96, layers=1, vocab=320
)


class Random:
    """A `WeightSource` of random numbers, made on the device: what is measured does not depend on their values."""

    def __init__(self, model: cost.Model, device: torch.device) -> None:
        shape = model.attention
        self._device, self._wide = device, shape.heads * shape.head_dim
        self._narrow = shape.kv_heads * shape.head_dim
        self._model = model
        self.config = DecoderConfig(
            architecture="llama", hidden=model.hidden, layers=model.layers, heads=shape.heads, kv_heads=shape.kv_heads,
            head_dim=shape.head_dim, ffn=model.ffn, vocab_size=model.vocab, context_length=32_768, rms_eps=1e-5,
            rope_theta=500_000.0, tied=True,
        )  # fmt: skip

    def has(self, role: str) -> bool:
        return not role.endswith(("bias", "q_norm", "k_norm"))

    def matrix(self, role: str, rows: slice = slice(None), cols: slice = slice(None)) -> QuantTensor:
        del rows, cols
        model, kind = self._model, role.rsplit(".", 1)[-1]
        outputs, inputs = {
            "embed": (model.vocab, model.hidden), "head": (model.vocab, model.hidden),
            "q": (self._wide, model.hidden), "k": (self._narrow, model.hidden), "v": (self._narrow, model.hidden),
            "o": (model.hidden, self._wide), "gate": (model.ffn, model.hidden), "up": (model.ffn, model.hidden),
            "down": (model.hidden, model.ffn),
        }[kind]  # fmt: skip
        numbers = torch.randn(outputs, inputs, device=self._device).mul_(inputs**-0.5).bfloat16()
        return QuantTensor("BF16", numbers.view(torch.uint8), inputs)

    def vector(self, role: str, part: slice = slice(None)) -> torch.Tensor:
        del part, role
        return torch.ones(self._model.hidden, device=self._device)


@dataclass
class Engine:
    """A runner over a random model, and room for so many sequences of so long a context."""

    runner: TorchRunner
    recorded: TorchRunner
    """The same, from graphs."""
    beside: TorchRunner
    """The same, with steps that are computed beside the host."""
    pages: int

    def step(
        self, batch: int, tokens: int, start: int, params: SamplingParams = GREEDY, *, token: int = 7, draft: int = 0
    ) -> StepBatch:
        """The next tokens of each sequence, of which the last one is sampled, and those of a draft."""
        return StepBatch(
            [
                SequenceSlice(
                    request_id=str(i), tokens=[token] * tokens + [7] * draft, start=start,
                    table=list(range(1 + i * self.pages, 1 + (i + 1) * self.pages)),
                    sample_rows=range(tokens - 1, tokens + draft), params=params, draft=draft,
                )
                for i in range(batch)
            ]
        )  # fmt: skip


def engine(machine: Machine, model: cost.Model, precision: Precision, batch: int, context: int, kv: str) -> Engine:  # noqa: PLR0917
    with torch.inference_mode():
        source = Random(model, machine.device)
        builder = Builder(source, precision, machine.device, None, lambda *_: None, layer_kernels=(_Layers(),))
        stack = builder.stack(source.config, range(model.layers))
        decoder = builder.decoder(source.config, stack)
    shape = model.attention
    pages = -(-(context + 2 * PAGE) // PAGE)
    cache = PagedKvCache(
        layers=model.layers, blocks=batch * pages, block_size=PAGE, kv_heads=shape.kv_heads, head_dim=shape.head_dim,
        dtype=stack.dtype, device=machine.device, kind=kv_type(kv, stack.dtype),
    )  # fmt: skip
    attention = PagedTriton(cache, stack.specs, multiprocessors=machine.multiprocessors)
    record = (lambda run: run) if machine.dry else CudaRecord()
    graphs = Graphs(stack, attention, record, longest=source.config.context_length, width=source.config.hidden)
    launched, recorded = (
        TorchRunner(decoder, attention, threads=1, sampler=CUDA, graphs=found) for found in (None, graphs)
    )
    beside = TorchRunner(decoder, attention, threads=1, sampler=CUDA, graphs=graphs, asynchronous=True)
    return Engine(launched, recorded, beside, pages)


class _Layers(FusedLayers):
    """Those of the engine, in the interpreter too."""

    def can_run(self, spec):
        return super().can_run(spec)._replace(ok=True)


PRECISIONS = {
    "bf16": Precision(weights="none", group=0, compute="bf16"),
    "int8": Precision(weights="int8", group=0, compute="bf16"),
    "int4 g128": Precision(weights="int4", group=128, compute="bf16"),
}
SHAPES = ((1, 512), (1, 8192), (8, 1024), (32, 1024), (128, 1024), (256, 512))


def decode(machine: Machine, copy: float, deadline: float) -> Iterator[dict[str, Any]]:
    """Steps that give each sequence its next token, whole: from the batch on the host to the token on the host."""
    if machine.dry:
        models, forms, shapes = {"tiny": TINY}, {"fp32": Precision(weights="none", group=0, compute="fp32")}, [(2, 20)]
    else:
        models, forms, shapes = cost.MODELS, PRECISIONS, SHAPES
    for name, model in models.items():
        for form, precision in forms.items():
            rounds = 1 if machine.dry else 12
            bits, group = {"int8": (8, 0), "int4 g128": (4, 128)}.get(form, (16, 0))
            most = max(batch * context for batch, context in shapes)
            made = engine(machine, model, precision, most // 512 + 1, 512, "auto")
            for batch, context in shapes:
                if time.monotonic() > deadline:
                    return
                pages = -(-(context + 2 * PAGE) // PAGE)
                made.pages = pages
                row: dict[str, Any] = {"model": name, "weights": form, "sequences": batch, "context": context}
                for label, params, runner in (
                    ("", GREEDY, made.recorded),
                    (" drawn", DRAWN, made.recorded),
                    (", launched one by one", GREEDY, made.runner),
                ):
                    step = made.step(batch, 1, context, params)
                    seconds = _timed(lambda run=runner, step=step: run.launch(step).result(), rounds)
                    row[f"ms{label}"] = seconds * 1e3
                found = cost.decode(model, batch, context, bits, group, multiprocessors=machine.multiprocessors)
                row["tokens/s"] = batch / row["ms"] * 1e3
                row["floor: ms"] = found.seconds(copy, BF16) * 1e3
                yield row
            del made
            if machine.device.type == "cuda":
                torch.cuda.empty_cache()


def loop(machine: Machine, deadline: float) -> Iterator[dict[str, Any]]:
    """The engine's loop without its scheduler: each step launched while one is out, and drafts, one step after another.

    `at 70 %`: tokens a second with drafts whose tokens are right with that chance, as a multiple of those without.
    """
    models = {"tiny": TINY} if machine.dry else {name: cost.MODELS[name] for name in ("Llama-3.2-1B", "Llama-3.1-8B")}
    shapes, rounds = ([(2, 20)], 2) if machine.dry else ([(1, 1024), (32, 1024), (128, 1024)], 12)
    tokens = (1 - RIGHT ** (DRAFT + 1)) / (1 - RIGHT)
    for name, model in models.items():
        precision = Precision(weights="none", group=0, compute="fp32") if machine.dry else PRECISIONS["bf16"]
        most = max(batch * context for batch, context in shapes)
        made = engine(machine, model, precision, most // 512 + 1, 512, "auto")
        for batch, context in shapes:
            if time.monotonic() > deadline:
                return
            made.pages = -(-(context + 2 * PAGE) // PAGE)
            plain, drafted = made.step(batch, 1, context), made.step(batch, 1, context, draft=DRAFT)
            waiting = made.step(batch, 1, context, token=PLACEHOLDER)

            def ahead(run=made.beside, first=plain, following=waiting) -> None:
                out = run.launch(first)
                for _ in range(AHEAD):
                    out, before = run.launch(following), out
                    before.result()
                out.result()

            row = {"model": name, "weights": "bf16", "sequences": batch, "context": context}
            row["ms"] = _timed(lambda run=made.beside, step=plain: run.launch(step).result(), rounds) * 1e3
            row["ms, one ahead"] = _timed(ahead, rounds) / (AHEAD + 1) * 1e3
            row[f"ms, drafts of {DRAFT}"] = (
                _timed(lambda run=made.beside, step=drafted: run.launch(step).result(), rounds) * 1e3
            )
            row["at 70 %"] = tokens * row["ms, one ahead"] / row[f"ms, drafts of {DRAFT}"]
            yield row
        del made
        if machine.device.type == "cuda":
            torch.cuda.empty_cache()


def prefill(machine: Machine) -> Iterator[dict[str, Any]]:
    """Prompts of one sequence."""
    name, model = ("tiny", TINY) if machine.dry else ("Llama-3.1-8B", cost.MODELS["Llama-3.1-8B"])
    precision = Precision(weights="none", group=0, compute="fp32" if machine.dry else "bf16")
    lengths = (24,) if machine.dry else (512, 2048, 8192)
    made = engine(machine, model, precision, 1, max(lengths), "auto")
    for tokens in lengths:
        step = made.step(1, tokens, 0)
        seconds = _timed(lambda step=step: made.runner.launch(step).result(), 1 if machine.dry else 5)
        yield {"model": name, "tokens": tokens, "ms": seconds * 1e3, "tokens/s": tokens / seconds}


def _timed(call, rounds: int) -> float:
    """Median seconds of a call that ends when the device has answered."""
    if rounds > 1:
        for _ in range(3):
            call()
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return float(np.median(times))


def transformers(machine: Machine, deadline: float) -> Iterator[dict[str, Any]]:
    """`generate` with a compiled static cache, and `generate_batch`, of a Llama-3.2-1B shape."""
    from transformers import CompileConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM

    model = TINY if machine.dry else cost.MODELS["Llama-3.2-1B"]
    shape, made = model.attention, 4 if machine.dry else 64
    config = LlamaConfig(
        hidden_size=model.hidden, intermediate_size=model.ffn, num_hidden_layers=model.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head_dim,
        vocab_size=model.vocab, max_position_embeddings=4096, tie_word_embeddings=True, eos_token_id=None,
        pad_token_id=0, bos_token_id=None,
    )  # fmt: skip
    with torch.device(machine.device):
        peer = LlamaForCausalLM(config).to(torch.float32 if machine.dry else torch.bfloat16).eval()
    context = 8 if machine.dry else 512
    for batch in (1,) if machine.dry else (1, 8, 32):
        if time.monotonic() > deadline:
            return
        inputs = torch.full((batch, context), 7, device=machine.device)
        options = {"do_sample": False, "min_new_tokens": made, "max_new_tokens": made, "pad_token_id": 0}
        if not machine.dry:
            options |= {"cache_implementation": "static", "compile_config": CompileConfig(fullgraph=True)}
        with torch.inference_mode():
            seconds = _timed(lambda: peer.generate(inputs, **options), 1 if machine.dry else 3)  # noqa: B023
        yield {
            "peer": "generate, static cache" if not machine.dry else "generate", "sequences": batch, "context": context,
            "ms a token, prompt and all": seconds / made * 1e3, "tokens/s": batch * made / seconds,
        }  # fmt: skip
    if machine.dry or not hasattr(peer, "generate_batch"):
        return
    for batch in (32, 128):
        if time.monotonic() > deadline:
            return
        asked = GenerationConfig(max_new_tokens=made, do_sample=False, eos_token_id=-1, pad_token_id=0)
        prompts = [[7] * context for _ in range(batch)]
        begun = time.perf_counter()
        peer.generate_batch(prompts, generation_config=asked)
        seconds = time.perf_counter() - begun
        yield {"peer": "generate_batch", "sequences": batch, "context": context, "tokens/s": batch * made / seconds}
