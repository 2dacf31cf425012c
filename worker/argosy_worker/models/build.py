"""Load a model: pick its reader, build the decoder, choose the kernels, and say what was done."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path

import torch
from torch import Tensor

from argosy_api.blocks import DEFAULT_BLOCK_SIZE
from argosy_api.errors import ModelNotFoundError, ModelUnsupportedError
from argosy_worker.compute.attention.kernels import AttentionSpec, choose_attention
from argosy_worker.compute.attention.kv_types import KvType, kv_type
from argosy_worker.compute.config import DecoderConfig, Experts, LayerSpec, window_of
from argosy_worker.compute.decoder import Decoder
from argosy_worker.compute.exactness import EXACT, Check
from argosy_worker.compute.layer import KERNELS as LAYER_KERNELS
from argosy_worker.compute.layer import LayerKernel, LayerWeights, choose_layer
from argosy_worker.compute.loaded import LoadedModel, attention_shape
from argosy_worker.compute.mlp import DenseMlp, ExpertsMlp, Mlp
from argosy_worker.compute.native import library
from argosy_worker.compute.native.crew import Crew
from argosy_worker.compute.native.layer import KV_BITS, TILE, NativeLayer, NativeLayers, joined
from argosy_worker.compute.native.linear import NativeLinears
from argosy_worker.compute.native.picking import sampler as native_sampler
from argosy_worker.compute.native.probe import Probe
from argosy_worker.compute.quant.formats import QuantTensor
from argosy_worker.compute.quant.int8_cpu import sums_are_exact
from argosy_worker.compute.quant.isa import cpu_features, instruction_set
from argosy_worker.compute.quant.linear import Linear, LinearKernel, LinearSpec
from argosy_worker.compute.quant.packer import KERNELS, Packer
from argosy_worker.compute.quant.precision import OWN, Precision, of_head, of_shape, own_kv, resolve
from argosy_worker.compute.quant.rounding import embedding
from argosy_worker.compute.quant.sizes import embedding_bytes
from argosy_worker.core.facts import ModelFacts
from argosy_worker.machine import give_back, usable_cores
from argosy_worker.models.hf_model import open_safetensors
from argosy_worker.models.open_model import OpenModel, open_gguf
from argosy_worker.models.weights import WeightSource, layer_roles
from argosy_worker.sampling.sampler import TORCH

log = logging.getLogger(__name__)

Progress = Callable[[str, float], None]
DEVICES = ("auto", "cpu", "cuda")
_FLOATS = {torch.float32: "fp32", torch.bfloat16: "bf16"}
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

    Raises:
        ModelNotFoundError, ModelInvalidError, ModelUnsupportedError: with what is wrong, and where.

    """
    progress("open", 0.0)
    with ExitStack() as stack:
        return assemble(
            open_model(path, stack), weights=weights, group_size=group_size, kv_cache=kv_cache, compute=compute,
            device=device, threads=threads, block_size=block_size, max_model_len=max_model_len, progress=progress,
        )  # fmt: skip


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
) -> LoadedModel:
    """Build an open model; its files may be closed afterwards. Arguments and errors are those of `load_model`.

    `kernels` are those that its linears may choose from.
    """
    target = _device(device)
    native = bool(library.kernels())
    precision = resolve(weights, group_size, compute, target, integers=_integers(target), native=native)
    kind = kv_type(own_kv(kv_cache, precision), _activations(precision, target))
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
        builder = _Builder(
            model.weights, precision, torch.device(target), check, progress,
            kernels=kernels, layer_kernels=layer_kernels,
        )  # fmt: skip
        decoder = builder.build(max_model_len)
        if check is not None and builder.native is not None:
            check.layer(Probe(*builder.native, kind, block_size))
        if check is not None and not builder.all_native:
            check.attention(attention_shape(decoder.config, block_size))
            check.elementwise()
        builder.reports["kv_cache"] = f"{kind.name} ({'auto' if kv_cache == 'auto' else 'as asked for'})"
        facts = _facts(model, decoder.config, precision, kind, target, check)
    give_back()
    progress("ready", 1.0)
    for role, report in builder.reports.items():
        log.info("kernel for %s: %s", role, report)
    if facts.exactness != EXACT:
        log.warning("answers may depend on a request's company here: %s", facts.exactness)
    return LoadedModel(
        facts=replace(facts, weights_bytes=builder.nbytes),
        kernels=builder.reports,
        decoder=decoder,
        threads=workers,
        kv_type=kind,
        sampler=sampler,
    )


def _device(device: str) -> str:
    if device not in DEVICES:
        raise ModelUnsupportedError(f"device {device!r} is unknown; must be one of {', '.join(DEVICES)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelUnsupportedError("device 'cuda' was asked for, but torch finds no CUDA device here")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def _integers(device: str) -> bool:
    return device == "cpu" and bool(cpu_features() & {"avx512_vnni", "amx_tile"}) and sums_are_exact()


def _activations(precision: Precision, device: str) -> torch.dtype:
    """Type of what goes between the linears; on a CPU fp32, whatever these compute in."""
    return torch.bfloat16 if device == "cuda" and precision.compute == "bf16" else torch.float32


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


class _Builder:
    """Builds a decoder from a source, and keeps the reasons for its kernels."""

    def __init__(
        self,
        source: WeightSource,
        precision: Precision,
        device: torch.device,
        check: Check | None,
        progress: Progress,
        *,
        kernels: Sequence[LinearKernel] = KERNELS,
        layer_kernels: Sequence[LayerKernel] = LAYER_KERNELS,
    ) -> None:
        self._layer_kernels = layer_kernels
        self._source, self._precision, self._device, self._progress = source, precision, device, progress
        self._packer = Packer(kernels, check)
        self._head_precision = of_head(precision, device.type, integers=_integers(device.type))
        self._dtype = _activations(precision, device.type)
        self._isa = cpu_features()
        self.reports = self._packer.reports
        self.nbytes = 0
        """What the weights take, once they are packed."""
        self.native: tuple[LayerSpec, LayerWeights] | None = None
        """The first layer on native kernels."""
        self.all_native = False

    def build(self, longest: int | None = None) -> Decoder:
        """The decoder for sequences of up to `longest` tokens; None for the model's context."""
        config, source = self._source.config.up_to(longest), self._source
        asked = AttentionSpec(layers=config.layer_specs(), device=self._device.type)
        _, self.reports["attention"] = choose_attention(asked)
        layers = []
        for i, spec in enumerate(config.layer_specs()):
            kernel, report = choose_layer(spec, self._layer_kernels)
            self.reports.setdefault("layer", report)
            weights = self._layer(i, spec)
            layers.append(kernel.pack(spec, i, weights))
            if self.native is None and isinstance(layers[-1], NativeLayer):
                self.native = spec, weights
            self._progress("weights", 0.05 + 0.8 * (i + 1) / config.layers)
        self.all_native = all(isinstance(layer, NativeLayer) for layer in layers)
        if self.all_native:
            self.reports["attention"] = "native, in the layers' one call"
        embed = source.matrix("embed")
        head_matrix = embed if config.tied else source.matrix("head")
        head = self._linear("head", ["head"], matrices=[head_matrix])
        self._progress("weights", 0.95)
        self.nbytes = self._packer.nbytes + embedding_bytes(
            rows=embed.rows, cols=embed.cols, stored=embed.format, weights=self._precision.weights
        )
        return Decoder(
            config,
            embed=embedding(embed, self._precision.weights).to(self._device),
            layers=joined(layers),
            final_norm=self._vector("final_norm"),
            head=head,
            dtype=self._dtype,
        )

    def _layer(self, i: int, spec: LayerSpec) -> LayerWeights:
        at = f"layers.{i}."
        has = {role: self._vector(f"{at}{role}") for role in layer_roles(spec) if role.endswith("norm")}
        return LayerWeights(
            qkv=self._linear("qkv", [f"{at}{n}" for n in "qkv"]),
            o=self._linear("o", [f"{at}o"]),
            mlp=self._experts(at, spec, spec.mlp) if isinstance(spec.mlp, Experts) else self._mlp(at, spec),
            sinks=self._source.vector(f"{at}sinks").to(self._device) if spec.sinks else None,
            **has,
        )

    def _mlp(self, at: str, spec: LayerSpec) -> Mlp:
        gate_up = self._linear("gate_up", [f"{at}gate", f"{at}up"])
        return DenseMlp(gate_up, self._linear("down", [f"{at}down"]), spec.activation)

    def _experts(self, at: str, spec: LayerSpec, experts: Experts) -> Mlp:
        """The router is computed in floats: an expert more or less is not a matter of rounding."""
        parts = [self._mlp(f"{at}experts.{e}.", spec) for e in range(experts.count)]
        return ExpertsMlp(self._linear("router", [f"{at}router"], floats=True), parts, experts)

    def _vector(self, role: str) -> Tensor:
        return self._source.vector(role).to(self._device, self._dtype)

    def _linear(
        self, name: str, roles: Sequence[str], *, matrices: Sequence[QuantTensor] = (), floats: bool = False
    ) -> Linear:
        """The linear of these matrices, one below the other; `name` is its role among linears."""
        bias, biases = None, [f"{role}.bias" for role in roles if name != "head"]
        if any(self._source.has(one) for one in biases):  # all or none: a missing one is refused by `vector`
            bias = torch.cat([self._source.vector(one) for one in biases])
        parts = matrices or [self._source.matrix(role) for role in roles]
        inputs, outputs = parts[0].cols, sum(part.rows for part in parts)
        precision = of_shape(
            self._head_precision if name == "head" else self._precision, inputs, outputs, self._device.type,
            integers=_integers(self._device.type),
        )  # fmt: skip
        spec = LinearSpec(
            role=name,
            formats=tuple(part.format for part in parts),
            in_features=inputs,
            out_features=outputs,
            weights="none" if floats else precision.weights,
            group=0 if floats else precision.group,
            compute=_FLOATS[self._dtype] if floats else precision.compute,
            device=self._device.type,
            isa=self._isa,
        )
        return self._packer.pack(spec, parts, bias, self._device)


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
