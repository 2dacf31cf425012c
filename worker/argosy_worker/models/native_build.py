"""Build a model that the native kernels compute from the embedding to the token. No torch."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from argosy_api.blocks import DEFAULT_BLOCK_SIZE
from argosy_worker.compute.angles import Turns
from argosy_worker.compute.config import DecoderConfig, LayerSpec
from argosy_worker.compute.native import able, library
from argosy_worker.compute.native.crew import Crew
from argosy_worker.compute.native.decoder import NativeDecoder
from argosy_worker.compute.native.linear import NativeLinear, NativeLinears
from argosy_worker.compute.native.model import NativeModel
from argosy_worker.compute.native.probe import Probe
from argosy_worker.compute.native.stack import Floats, Parts
from argosy_worker.compute.quant import eight
from argosy_worker.compute.quant.formats import QuantTensor
from argosy_worker.compute.quant.precision import Precision, of_head, own_form, own_kv, resolve
from argosy_worker.compute.quant.sizes import WIDE, embedding_bytes, linear_bytes
from argosy_worker.compute.rowcheck import RowCheck
from argosy_worker.models.facts import Progress, facts_of
from argosy_worker.models.open_model import OpenModel
from argosy_worker.models.weights import WeightSource, layer_roles

log = logging.getLogger(__name__)

_CHECK_S = 0.02
"""For more products than two of each kind of linear. The kernels depend on no library: there is less to be found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a model is to be, as `load_model` has it; threads are counted."""

    weights: str = "auto"
    group_size: int | None = None
    kv_cache: str = "auto"
    compute: str = "auto"
    threads: int = 1
    block_size: int = DEFAULT_BLOCK_SIZE
    max_model_len: int | None = None


def build(model: OpenModel, asked: Asked, progress: Progress) -> NativeModel | None:
    """The model on a CPU; None where the native kernels are not here, do not compute all of it, or are not exact.

    Raises:
        ModelError: it is no sound model.

    """
    if not library.kernels():
        return None
    precision = resolve(asked.weights, asked.group_size, asked.compute, "cpu", integers=True, native=True)
    kv, config = own_kv(asked.kv_cache, precision), model.weights.config.up_to(asked.max_model_len)
    if not able.whole(config, precision, kv, asked.block_size):
        return None
    crew = Crew(asked.threads)
    builder = _Builder(model.weights, config, precision, crew, RowCheck(asked.threads, _CHECK_S))
    decoder = builder.decoder(progress)
    check = builder.check
    check.layer(Probe(config.layer_specs()[0], decoder.layers[0], kv, asked.block_size))
    for rope in sorted(config.ropes, key=repr):
        check.add(Turns(rope).rows(np.arange(0, config.context_length, max(1, config.context_length // 8))))
    if check.problems:
        log.warning("native kernels are not exact here, torch computes: %s", check.verdict)
        return None
    reports = builder.reports | {
        "layer": "layer-native (one call for all layers)",
        "attention": "native, in the layers' one call",
        "kv_cache": f"{kv} ({'auto' if asked.kv_cache == 'auto' else 'as asked for'})",
    }
    facts = facts_of(
        model, config, precision, kv=kv, device="cpu", arithmetic=check.digest, exactness=check.verdict,
        instruction_set=crew.kernels, weights_bytes=builder.nbytes,
    )  # fmt: skip
    return NativeModel(facts=facts, kernels=reports, config=config, threads=asked.threads, decoder=decoder)


class _Builder:
    def __init__(
        self, source: WeightSource, config: DecoderConfig, precision: Precision, crew: Crew, check: RowCheck
    ) -> None:
        self._source, self._config, self._crew = source, config, crew
        self._precision, self._head = precision, of_head(precision, "cpu", integers=True)
        self._linears = NativeLinears(crew)
        self._checked: set[tuple[str, int, int]] = set()
        self.check = check
        self.reports: dict[str, str] = {}
        self.nbytes = 0
        """What the weights take, once they are packed."""

    def decoder(self, progress: Progress) -> NativeDecoder:
        """All weights, packed and checked."""
        config, source = self._config, self._source
        layers = []
        for i, spec in enumerate(config.layer_specs()):
            layers.append(self._layer(f"layers.{i}.", spec))
            progress("weights", 0.05 + 0.8 * (i + 1) / config.layers)
        embed = source.held("embed")
        head = self._linear("head", ["head"], [embed if config.tied else source.held("head")])
        progress("weights", 0.95)
        self.nbytes += embedding_bytes(
            rows=embed.rows, cols=embed.cols, stored=embed.format, weights=self._precision.weights
        )
        return NativeDecoder(
            config=config,
            crew=self._crew,
            embed=eight.whole(embed) if embed.format in WIDE else embed,
            layers=layers,
            final_norm=source.floats("final_norm"),
            head=head,
        )

    def _layer(self, at: str, spec: LayerSpec) -> Parts:
        norms = [role for role in layer_roles(spec) if role.endswith("norm")]
        return Parts(
            qkv=self._linear("qkv", [f"{at}{n}" for n in "qkv"]),
            o=self._linear("o", [f"{at}o"]),
            gate_up=self._linear("gate_up", [f"{at}gate", f"{at}up"]),
            down=self._linear("down", [f"{at}down"]),
            **{role: self._source.floats(f"{at}{role}") for role in norms},
        )

    def _linear(self, name: str, roles: Sequence[str], matrices: Sequence[QuantTensor] = ()) -> NativeLinear:
        """The linear of these matrices, one below the other; `name` is its role among linears."""
        bias: Floats | None = None
        biases = [f"{role}.bias" for role in roles if name != "head"]
        if any(self._source.has(one) for one in biases):  # all or none: a missing one is refused by `floats`
            bias = np.concatenate([self._source.floats(one) for one in biases])
        parts = matrices or [self._source.held(role) for role in roles]
        held = self._head if name == "head" else self._precision
        found = self._linears.made(parts, bias, held.weights, held.group)
        shape = (name, parts[0].cols, sum(part.rows for part in parts))
        if shape not in self._checked:
            self._checked.add(shape)
            problem = self.check.rows(found, parts[0].cols)
            if problem is not None:
                self.check.problems.append(f"{name}: {problem}")
        self.reports.setdefault(name, self._linears.report(parts, held.weights, held.group))
        self.nbytes += linear_bytes(
            rows=shape[2], cols=shape[1], weights=held.weights, group=held.group, compute="int8",
            own=own_form((part.format for part in parts), held.weights),
        )  # fmt: skip
        return found
