"""Build a model that torch computes, or a part of it: choose the kernels, and say why."""

from collections.abc import Sequence
from dataclasses import fields

import torch

from argosy_api.pipeline import Place, layers_of
from argosy_worker.compute.attention.kv_types import kv_type
from argosy_worker.compute.exactness import Check
from argosy_worker.compute.fused import FusedLayers
from argosy_worker.compute.layer import KERNELS as LAYER_KERNELS
from argosy_worker.compute.layer import Layer, LayerKernel
from argosy_worker.compute.native import library
from argosy_worker.compute.native.able import KV_BITS, TILE
from argosy_worker.compute.native.crew import Crew
from argosy_worker.compute.native.joins import padding
from argosy_worker.compute.native.layer import NativeLayers, joins_of, parts_of
from argosy_worker.compute.native.linear import NativeLinears
from argosy_worker.compute.native.picking import sampler as native_sampler
from argosy_worker.compute.native.probe import Probe
from argosy_worker.compute.quant.isa import instruction_set
from argosy_worker.compute.quant.linear import LinearKernel
from argosy_worker.compute.quant.packer import KERNELS
from argosy_worker.compute.quant.precision import NATIVE, own_kv, resolve
from argosy_worker.compute.shared import SharedStack, Sharing
from argosy_worker.compute.torch_model import TorchModel, TorchPart, attention_shape
from argosy_worker.compute.triton import machine
from argosy_worker.models.builder import Builder, activations, integers
from argosy_worker.models.facts import Progress, facts_of
from argosy_worker.models.native_build import Asked
from argosy_worker.models.open_model import OpenModel
from argosy_worker.sampling.sampler import CUDA, TORCH

ALONE = Place()
_GPU_EXACTNESS = "cuBLAS picks its kernels by the number of rows: answers may depend on a request's company"


def build(
    model: OpenModel,
    asked: Asked,
    target: str,
    progress: Progress,
    *,
    kernels: Sequence[LinearKernel] = (),
    place: Place = ALONE,
    rest: Layer | None = None,
    sharing: Sharing | None = None,
) -> TorchPart:
    """What a rank has of the model, on a device, `cpu` or `cuda`; rank 0's is a TorchModel.

    Args:
        model: with its files open.
        asked: what it is to be.
        target: the device.
        progress: is told how far it is.
        kernels: those that its linears may choose from; all by default.
        place: of this process in its group.
        rest: computes the layers of the other stages.
        sharing: the ranks that share each layer, where there are any.

    Raises:
        ModelError: it is no sound model, or nothing computes it as it is asked for.

    """
    kernels = kernels or KERNELS
    native = bool(library.kernels())
    precision = resolve(
        asked.weights, asked.group_size, asked.compute, target, integers=integers(target), native=native
    )
    kind = kv_type(own_kv(asked.kv_cache, precision), activations(precision, target))
    torch.set_num_threads(asked.threads)
    with torch.inference_mode():
        check = Check(asked.threads) if target == "cpu" else None
        layer_kernels: tuple[LayerKernel, ...] = LAYER_KERNELS
        sampler = TORCH
        if target == "cuda":
            layer_kernels, sampler = (FusedLayers(), *LAYER_KERNELS), CUDA
        if precision.weights in NATIVE:
            crew = Crew(asked.threads)
            kernels, sampler = (NativeLinears(crew), *kernels), native_sampler(crew)
            if kind.name in KV_BITS and asked.block_size % TILE == 0:
                layer_kernels = (NativeLayers(), *LAYER_KERNELS)
        builder = Builder(
            model.weights, precision, torch.device(target), check, progress,
            kernels=kernels, layer_kernels=layer_kernels, cut=place.cut, sharing=sharing,
        )  # fmt: skip
        config = model.weights.config.up_to(asked.max_model_len)
        stack, head = builder.stack(config, layers_of(config.layers, place.stages, place.stage), rest), None
        if place.rank == 0 and sharing is not None:
            stack = SharedStack(stack, sharing)
        elif place.stage == 0 and sharing is not None:
            head = builder.head(config)
        decoder = builder.decoder(config, stack) if place.rank == 0 else None
        if check is not None and builder.native is not None:
            spec, weights = builder.native
            others = joins_of([weights], padding(place.cut.part))
            check.layer(Probe(spec, parts_of(weights), kind.name, asked.block_size, others))
        if check is not None and not builder.all_native:
            check.attention(attention_shape(config, asked.block_size, stack.specs[0].kv_heads))
            check.elementwise()
        builder.reports["kv_cache"] = f"{kind.name} ({'auto' if asked.kv_cache == 'auto' else 'as asked for'})"
        facts = facts_of(
            model, config, precision, kv=kind.name, device=target,
            arithmetic=check.digest if check is not None else _gpu_arithmetic(),
            exactness=check.verdict if check is not None else _GPU_EXACTNESS,
            instruction_set=instruction_set() if target == "cpu" else torch.cuda.get_device_name(),
            weights_bytes=builder.nbytes,
        )  # fmt: skip
    part = TorchPart(
        facts=facts,
        kernels=builder.reports,
        config=config,
        threads=asked.threads,
        stack=stack,
        kv_type=kind,
        head=head,
    )
    if decoder is None:
        return part
    return TorchModel(
        **{field.name: getattr(part, field.name) for field in fields(part)}, decoder=decoder, sampler=sampler
    )


def _gpu_arithmetic() -> bytes:
    """What decides the bits of products on a GPU: its kind, and the libraries."""
    kernels = machine.arithmetic() if isinstance(machine.present(), machine.Gpu) else ""
    return f"{torch.cuda.get_device_name()} {torch.__version__} {torch.version.cuda} {kernels}".encode()
