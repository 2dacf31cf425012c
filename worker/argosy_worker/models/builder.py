"""From a source's tensors to layers and a decoder: each linear and each layer gets the first kernel that can."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from argosy_api.errors import ModelUnsupportedError
from argosy_api.pipeline import WHOLE, Cut
from argosy_worker.compute.attention.kernels import AttentionSpec, choose_attention
from argosy_worker.compute.config import DecoderConfig, Experts, LayerSpec
from argosy_worker.compute.decoder import Decoder
from argosy_worker.compute.exactness import Check
from argosy_worker.compute.experts import KERNELS as EXPERTS_KERNELS
from argosy_worker.compute.experts import ExpertsKernel, ExpertsSpec, choose_experts
from argosy_worker.compute.layer import KERNELS as LAYER_KERNELS
from argosy_worker.compute.layer import Layer, LayerKernel, LayerWeights, choose_layer
from argosy_worker.compute.mlp import DenseMlp, Mlp
from argosy_worker.compute.native.layer import NativeLayer, joined
from argosy_worker.compute.native.linear import NativeLinear, NormedLinear
from argosy_worker.compute.quant.formats import QuantTensor
from argosy_worker.compute.quant.int8_cpu import sums_are_exact
from argosy_worker.compute.quant.isa import cpu_features
from argosy_worker.compute.quant.linear import Linear, LinearKernel, LinearSpec
from argosy_worker.compute.quant.packer import KERNELS, Packer
from argosy_worker.compute.quant.precision import Precision, floats_of, of_head, of_shape
from argosy_worker.compute.quant.rounding import embedding
from argosy_worker.compute.quant.sizes import embedding_bytes
from argosy_worker.compute.shared import SharedHead, SharedLinear, Sharing
from argosy_worker.compute.stack import Stack
from argosy_worker.models.facts import Progress
from argosy_worker.models.weights import ALL, WeightSource, layer_roles

_FLOATS = {torch.float32: "fp32", torch.bfloat16: "bf16"}


def integers(device: str) -> bool:
    """Whether products of bytes are fast and exact there."""
    return device == "cpu" and bool(cpu_features() & {"avx512_vnni", "amx_tile"}) and sums_are_exact()


def activations(precision: Precision, device: str) -> torch.dtype:
    """Type of what goes between the linears."""
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[floats_of(precision, device)]


class Builder:
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
        experts_kernels: Sequence[ExpertsKernel] = EXPERTS_KERNELS,
        cut: Cut = WHOLE,
        sharing: Sharing | None = None,
    ) -> None:
        """`cut`: what this rank has of each layer; `sharing`: the other ranks that have the rest."""
        self._layer_kernels, self._experts_kernels = layer_kernels, experts_kernels
        self._source, self._precision, self._device, self._progress = source, precision, device, progress
        self._packer = Packer(kernels, check)
        self._head_precision = of_head(precision, device.type, integers=integers(device.type))
        self._dtype = activations(precision, device.type)
        self._isa, self._cut, self._sharing = cpu_features(), cut, sharing
        self.reports = self._packer.reports
        self.nbytes = 0
        """What the weights take, once they are packed."""
        self.native: tuple[LayerSpec, LayerWeights] | None = None
        """The first layer on native kernels."""
        self.all_native = False

    def stack(self, config: DecoderConfig, part: range, rest: Layer | None = None) -> Stack:
        """The layers `part` of the model, and behind them `rest`, which has all others."""
        whole = config.layer_specs()[part.start : part.stop]
        specs = [self._part_of(spec) for spec in whole]
        _, self.reports["attention"] = choose_attention(AttentionSpec(layers=tuple(specs), device=self._device.type))
        layers: list[Layer] = []
        for i, spec in enumerate(specs):
            kernel, report = choose_layer(spec, self._layer_kernels)
            self.reports.setdefault("layer", report)
            weights = self._layer(part.start + i, whole[i])
            layers.append(kernel.pack(spec, i, weights))
            if self.native is None and isinstance(layers[-1], NativeLayer):
                self.native = spec, weights
            self._progress("weights", 0.05 + 0.8 * (i + 1) / len(specs))
        self.all_native = all(isinstance(layer, NativeLayer) for layer in layers)
        if self.all_native:
            self.reports["attention"] = "native, in the layers' one call"
        layers = joined(layers)
        self.nbytes = self._packer.nbytes
        return Stack(layers if rest is None else [*layers, rest], specs, dtype=self._dtype, device=self._device)

    def decoder(self, config: DecoderConfig, stack: Stack) -> Decoder:
        """Embedding and head around the layers."""
        source = self._source
        embed = source.matrix("embed")
        if self._sharing is not None:
            head: Linear = SharedHead(self.head(config), self._sharing, self._widths(config.vocab_size))
        else:
            matrix = embed if config.tied else source.matrix("head")
            head = self._linear("head", ["head"], matrices=[matrix])
        self._progress("weights", 0.95)
        self.nbytes = self._packer.nbytes + embedding_bytes(
            rows=embed.rows, cols=embed.cols, stored=embed.format, weights=self._precision.weights
        )
        return Decoder(
            config,
            embed=embedding(embed, self._precision.weights).to(self._device),
            stack=stack,
            final_norm=self._vector("final_norm"),
            head=head,
        )

    def head(self, config: DecoderConfig) -> Linear:
        """The outputs of the head that this rank has, alone."""
        mine = self._cut.outputs(config.vocab_size)
        matrix = self._source.matrix("embed" if config.tied else "head", slice(mine.start, mine.stop))
        found = self._linear("head", ["head"], matrices=[matrix])
        self.nbytes = self._packer.nbytes
        if isinstance(found, NativeLinear):  # as in one process the kernels norm the rows
            norm = self._vector("final_norm")
            return NormedLinear(found, norm, config.rms_eps) if norm.dtype == torch.float32 else found
        return found

    def _part_of(self, spec: LayerSpec) -> LayerSpec:
        """What this rank computes of a layer."""
        if self._sharing is None:
            return spec
        if spec.qk_norm == "width":
            raise ModelUnsupportedError("parallelism.tensor: the model norms all heads together; they cannot be apart")
        kv_heads, each = len(self._cut.heads(spec.kv_heads)), spec.heads // spec.kv_heads
        return replace(spec, heads=each * kv_heads, kv_heads=kv_heads, ffn=len(self._cut.outputs(spec.ffn)))

    def _widths(self, size: int) -> list[int]:
        """Outputs of each rank that shares a linear of `size`."""
        return [len(Cut(part, self._cut.parts).outputs(size)) for part in range(self._cut.parts)]

    def _rows(self, role: str, spec: LayerSpec) -> slice:
        """Which rows of a matrix or bias this rank has; `spec` is of the whole layer."""
        part = role.removesuffix(".bias").rpartition(".")[2]
        if self._sharing is None or part == "router":
            return ALL
        if part in ("q", "k", "v", "sinks"):
            each = {"q": spec.heads // spec.kv_heads * spec.head_dim, "sinks": spec.heads // spec.kv_heads}
            heads, width = self._cut.heads(spec.kv_heads), each.get(part, spec.head_dim)
            return slice(heads.start * width, heads.stop * width)
        mine = self._cut.outputs(spec.ffn if part in ("gate", "up") else spec.hidden)
        return slice(mine.start, mine.stop)

    def _joined(self, linear: Linear, spec: LayerSpec, inputs: Sequence[int]) -> Linear:
        """A linear whose inputs are spread over the ranks, as its outputs are."""
        if self._sharing is None:
            return linear
        return SharedLinear(
            linear, self._sharing, part=self._cut.part, outputs=self._widths(spec.hidden), inputs=inputs
        )

    def _head_widths(self, spec: LayerSpec) -> list[int]:
        """Columns of what attention gives, of each rank."""
        each = spec.heads // spec.kv_heads * spec.head_dim
        return [each * len(Cut(part, self._cut.parts).heads(spec.kv_heads)) for part in range(self._cut.parts)]

    def _layer(self, i: int, spec: LayerSpec) -> LayerWeights:
        at = f"layers.{i}."
        has = {role: self._vector(f"{at}{role}") for role in layer_roles(spec) if role.endswith("norm")}
        return LayerWeights(
            qkv=self._linear("qkv", [f"{at}{n}" for n in "qkv"], spec),
            o=self._joined(self._linear("o", [f"{at}o"], spec), spec, self._head_widths(spec)),
            mlp=self._experts(at, spec, spec.mlp) if isinstance(spec.mlp, Experts) else self._mlp(at, spec),
            sinks=self._source.vector(f"{at}sinks", self._rows("sinks", spec)).to(self._device) if spec.sinks else None,
            **has,
        )

    def _mlp(self, at: str, spec: LayerSpec) -> DenseMlp:
        gate_up = self._linear("gate_up", [f"{at}gate", f"{at}up"], spec)
        down = self._joined(self._linear("down", [f"{at}down"], spec), spec, self._widths(spec.ffn))
        return DenseMlp(gate_up, down, spec.activation)

    def _experts(self, at: str, spec: LayerSpec, experts: Experts) -> Mlp:
        """The router is computed in floats: an expert more or less is not a matter of rounding."""
        asked = ExpertsSpec(
            experts=experts,
            activation=spec.activation,
            gate_up=self._spec("gate_up", (), spec.hidden, 2 * spec.ffn),
            down=self._spec("down", (), spec.ffn, spec.hidden),
            shared=self._sharing is not None,
        )
        kernel, report = choose_experts(asked, self._experts_kernels)
        self.reports.setdefault("experts", report)
        router = self._linear("router", [f"{at}router"], spec, floats=True)
        return kernel.make(router, (self._mlp(f"{at}experts.{e}.", spec) for e in range(experts.count)), asked)

    def _vector(self, role: str) -> Tensor:
        vector: Tensor = self._source.vector(role).to(self._device, self._dtype)
        return vector

    def _linear(
        self,
        name: str,
        roles: Sequence[str],
        layer: LayerSpec | None = None,
        *,
        matrices: Sequence[QuantTensor] = (),
        floats: bool = False,
    ) -> Linear:
        """The linear of these matrices, one below the other, or what this rank has of them; `name` is its role among
        linears, `layer` the whole one that it is of.
        """
        rows = [ALL if layer is None else self._rows(role, layer) for role in roles]
        bias, biases = None, [f"{role}.bias" for role in roles if name != "head"]
        if any(self._source.has(one) for one in biases):  # all or none: a missing one is refused by `vector`
            bias = torch.cat([self._source.vector(one, part) for one, part in zip(biases, rows, strict=True)])
        parts = matrices or [self._source.matrix(role, part) for role, part in zip(roles, rows, strict=True)]
        formats = tuple(part.format for part in parts)
        spec = self._spec(name, formats, parts[0].cols, sum(part.rows for part in parts), floats=floats)
        return self._packer.pack(spec, parts, bias, self._device)

    def _spec(
        self, name: str, formats: tuple[str, ...], inputs: int, outputs: int, *, floats: bool = False
    ) -> LinearSpec:
        precision = of_shape(
            self._head_precision if name == "head" else self._precision, inputs, outputs, self._device.type,
            integers=integers(self._device.type),
        )  # fmt: skip
        return LinearSpec(
            role=name,
            formats=formats,
            in_features=inputs,
            out_features=outputs,
            weights="none" if floats else precision.weights,
            group=0 if floats else precision.group,
            compute=_FLOATS[self._dtype] if floats else precision.compute,
            device=self._device.type,
            isa=self._isa,
        )
