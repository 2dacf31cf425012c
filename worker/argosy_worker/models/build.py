"""Load a model: pick its reader, build the decoder, choose the kernels, and say what was done."""

import hashlib
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from argosy_api.blocks import DEFAULT_BLOCK_SIZE
from argosy_api.errors import ModelNotFoundError, ModelUnsupportedError
from argosy_api.pipeline import layers_of
from argosy_worker.compute.attention.kv_types import KvType, kv_type
from argosy_worker.compute.config import DecoderConfig, window_of
from argosy_worker.compute.exactness import Check
from argosy_worker.compute.layer import KERNELS as LAYER_KERNELS
from argosy_worker.compute.layer import Layer, LayerKernel
from argosy_worker.compute.loaded import LoadedModel, LoadedPart, attention_shape
from argosy_worker.compute.native import library
from argosy_worker.compute.native.crew import Crew
from argosy_worker.compute.native.layer import KV_BITS, TILE, NativeLayers
from argosy_worker.compute.native.linear import NativeLinears
from argosy_worker.compute.native.picking import sampler as native_sampler
from argosy_worker.compute.native.probe import Probe
from argosy_worker.compute.quant.isa import instruction_set
from argosy_worker.compute.quant.linear import LinearKernel
from argosy_worker.compute.quant.packer import KERNELS
from argosy_worker.compute.quant.precision import OWN, Precision, own_kv, resolve
from argosy_worker.core.facts import EXACT, ModelFacts
from argosy_worker.machine import give_back, usable_cores
from argosy_worker.models.builder import Builder, Progress, activations, integers
from argosy_worker.models.hf_model import open_safetensors
from argosy_worker.models.open_model import OpenModel, open_gguf
from argosy_worker.sampling.sampler import TORCH

log = logging.getLogger(__name__)

DEVICES = ("auto", "cpu", "cuda")
_GPU_EXACTNESS = "cuBLAS picks its kernels by the number of rows: answers may depend on a request's company"
_FINGERPRINT_VERSION = b"argosy-model-5"


def _silent(stage: str, fraction: float) -> None:
    del stage, fraction


def load_model(
    path: Path,
    *,
    weights: str = "auto",
    group_size: int | None = None,
    kv_cache: str = "auto",
    compute: str = "auto",
    device: str = "auto",
    threads: int = 0,
    block_size: int = DEFAULT_BLOCK_SIZE,
    max_model_len: int | None = None,
    progress: Progress = _silent,
    ranks: int = 1,
    rest: Layer | None = None,
) -> LoadedModel:
    """Load a GGUF file, or a folder with safetensors, config.json and tokenizer.tokenizer_json.

    Args:
        path: the file, or the folder (which may also hold one GGUF file).
        weights: `spec.quantization.weights`: how the linears' weights are held.
        group_size: weights that share a scale (int4, int8); None for the default.
        kv_cache: `spec.quantization.kvCache`: type of the numbers in the KV cache.
        compute: `int8`, `fp32`, `bf16`, or `auto`: what fits the weights (`quant/precision.py`).
        device: `cpu`, `cuda`, or `auto`: CUDA where there is one.
        threads: compute threads on the CPU; 0 for one per usable core.
        block_size: tokens of a KV cache block; decides the shapes of attention that are checked.
        max_model_len: tokens of the longest sequence to come; None for the model's context. LongRoPE depends on it.
        progress: told (stage, fraction of the load in 0 .. 1).
        ranks: processes that share the layers; this one is rank 0 of them.
        rest: computes the layers of the others.

    Raises:
        ModelNotFoundError, ModelInvalidError, ModelUnsupportedError: with what is wrong, and where.

    """
    progress("open", 0.0)
    with ExitStack() as stack:
        return assemble(
            open_model(path, stack), weights=weights, group_size=group_size, kv_cache=kv_cache, compute=compute,
            device=device, threads=threads, block_size=block_size, max_model_len=max_model_len, progress=progress,
            ranks=ranks, rest=rest,
        )  # fmt: skip


def load_part(path: Path, *, rank: int, ranks: int, progress: Progress = _silent, **how: Any) -> LoadedPart:
    """Load what a rank above 0 has: some of the layers. Arguments and errors are those of `load_model`."""
    progress("open", 0.0)
    with ExitStack() as stack:
        return _assemble(open_model(path, stack), rank=rank, ranks=ranks, progress=progress, **how)


def assemble(
    model: OpenModel,
    *,
    weights: str = "auto",
    group_size: int | None = None,
    kv_cache: str = "auto",
    compute: str = "auto",
    device: str = "auto",
    threads: int = 0,
    block_size: int = DEFAULT_BLOCK_SIZE,
    max_model_len: int | None = None,
    progress: Progress = _silent,
    kernels: Sequence[LinearKernel] = KERNELS,
    ranks: int = 1,
    rest: Layer | None = None,
) -> LoadedModel:
    """Build an open model; its files may be closed afterwards. Arguments and errors are those of `load_model`.

    `kernels` are those that its linears may choose from.
    """
    made = _assemble(
        model, weights=weights, group_size=group_size, kv_cache=kv_cache, compute=compute, device=device,
        threads=threads, block_size=block_size, max_model_len=max_model_len, progress=progress, kernels=kernels,
        ranks=ranks, rest=rest,
    )  # fmt: skip
    if not isinstance(made, LoadedModel):
        raise TypeError("rank 0 without a decoder")
    return made


def _assemble(
    model: OpenModel,
    *,
    weights: str = "auto",
    group_size: int | None = None,
    kv_cache: str = "auto",
    compute: str = "auto",
    device: str = "auto",
    threads: int = 0,
    block_size: int = DEFAULT_BLOCK_SIZE,
    max_model_len: int | None = None,
    progress: Progress = _silent,
    kernels: Sequence[LinearKernel] = KERNELS,
    rank: int = 0,
    ranks: int = 1,
    rest: Layer | None = None,
) -> LoadedPart:
    target = _device(device)
    native = bool(library.kernels())
    precision = resolve(weights, group_size, compute, target, integers=integers(target), native=native)
    kind = kv_type(own_kv(kv_cache, precision), activations(precision, target))
    workers = threads if threads > 0 else usable_cores()
    torch.set_num_threads(workers)
    with torch.inference_mode():
        progress("tokenizer", 0.02)
        check = Check(workers) if target == "cpu" else None
        layer_kernels: tuple[LayerKernel, ...] = LAYER_KERNELS
        sampler = TORCH
        if precision.weights == OWN:
            crew = Crew(workers)
            kernels, sampler = (NativeLinears(crew), *kernels), native_sampler(crew)
            if kind.name in KV_BITS and block_size % TILE == 0:
                layer_kernels = (NativeLayers(), *LAYER_KERNELS)
        builder = Builder(
            model.weights, precision, torch.device(target), check, progress,
            kernels=kernels, layer_kernels=layer_kernels,
        )  # fmt: skip
        config = model.weights.config.up_to(max_model_len)
        stack = builder.stack(config, layers_of(config.layers, ranks, rank), rest)
        decoder = builder.decoder(config, stack) if rank == 0 else None
        if check is not None and builder.native is not None:
            check.layer(Probe(*builder.native, kind, block_size))
        if check is not None and not builder.all_native:
            check.attention(attention_shape(config, block_size))
            check.elementwise()
        builder.reports["kv_cache"] = f"{kind.name} ({'auto' if kv_cache == 'auto' else 'as asked for'})"
        facts = _facts(model, config, precision, kind, target, check)
    give_back()
    progress("ready", 1.0)
    for role, report in builder.reports.items():
        log.info("kernel for %s: %s", role, report)
    if facts.exactness != EXACT:
        log.warning("answers may depend on a request's company here: %s", facts.exactness)
    part = LoadedPart(
        facts=replace(facts, weights_bytes=builder.nbytes),
        kernels=builder.reports,
        config=config,
        stack=stack,
        threads=workers,
        kv_type=kind,
    )
    if decoder is None:
        return part
    return LoadedModel(
        **{field.name: getattr(part, field.name) for field in fields(part)}, decoder=decoder, sampler=sampler
    )


def _device(device: str) -> str:
    if device not in DEVICES:
        raise ModelUnsupportedError(f"device {device!r} is unknown; must be one of {', '.join(DEVICES)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelUnsupportedError("device 'cuda' was asked for, but torch finds no CUDA device here")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def open_model(path: Path, stack: ExitStack) -> OpenModel:
    """Open a GGUF file, or a folder; `stack` closes it. Raises ModelErrors."""
    if path.is_dir():
        files = sorted(path.glob("*.gguf"))
        if len(files) > 1:
            raise ModelUnsupportedError(f"the folder has {len(files)} GGUF files; name one of them")
        if files:
            return open_gguf(files[0], stack)
        return open_safetensors(path, stack)
    if not path.is_file():
        raise ModelNotFoundError(f"no file or folder {path.name!r} at the model's source")
    return open_gguf(path, stack)


def _facts(  # noqa: PLR0917  # what facts are made of
    model: OpenModel, config: DecoderConfig, precision: Precision, kind: KvType, device: str, check: Check | None
) -> ModelFacts:
    tokenizer = model.tokenizer
    digest = hashlib.sha256(_FINGERPRINT_VERSION)
    arithmetic = check.digest if check is not None else _gpu_arithmetic()
    for part in (
        repr(config).encode(),
        repr(precision).encode(),
        kind.name.encode(),
        tokenizer.tokenizer_json,
        arithmetic,
        library.sources().encode() if precision.weights == OWN else b"",
        *model.samples(),
    ):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return ModelFacts(
        architecture=config.architecture,
        quantization=model.weights.formats(),
        compute=precision.compute,
        kv_dtype=kind.name,
        device=device,
        vocab_size=config.vocab_size,
        context_length=config.context_length,
        window=window_of(config.layer_specs()),
        **{field.name: getattr(tokenizer, field.name) for field in fields(tokenizer)},
        fingerprint=digest.hexdigest()[:32],
        exactness=check.verdict if check is not None else _GPU_EXACTNESS,
        instruction_set=instruction_set() if device == "cpu" else torch.cuda.get_device_name(),
    )


def _gpu_arithmetic() -> bytes:
    """What decides the bits of products on a GPU: its kind, and the libraries."""
    return f"{torch.cuda.get_device_name()} {torch.__version__} {torch.version.cuda}".encode()
