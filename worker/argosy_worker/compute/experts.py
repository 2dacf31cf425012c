"""Experts: who computes a layer's, and why. Loads no kernels before they are chosen.

`GroupedTriton` has one launch for each product of all experts, `EachExpert` a linear for each expert.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from argosy_worker.compute.config import Activation, Experts
from argosy_worker.compute.mlp import DenseMlp, ExpertsMlp, Mlp
from argosy_worker.compute.quant.float_cuda import FloatCuda
from argosy_worker.compute.quant.groups_cuda import WeightOnlyTriton
from argosy_worker.compute.quant.linear import Linear, LinearSpec, Verdict, first_able
from argosy_worker.compute.triton import machine

_MOST = 1024
"""Experts whose scores are compared in one program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsSpec:
    """What a layer needs."""

    experts: Experts
    activation: Activation
    gate_up: LinearSpec
    """Of each expert."""
    down: LinearSpec
    shared: bool = False
    """Whether ranks have parts of each expert."""


class ExpertsKernel(Protocol):
    """Makes the second part of a layer of experts."""

    name: str

    def can_run(self, spec: ExpertsSpec) -> Verdict:
        """Whether this kernel can compute `spec`."""
        ...

    def make(self, router: Linear, parts: Iterable[DenseMlp], spec: ExpertsSpec) -> Mlp:
        """Take the experts, in their order, as they are packed."""
        ...


class EachExpert:
    """`ExpertsMlp`, on every device."""

    name = "experts-each"

    def can_run(self, spec: ExpertsSpec) -> Verdict:
        """Run all."""
        del spec
        return Verdict(ok=True, reason="a linear for each expert, one after another")

    def make(self, router: Linear, parts: Iterable[DenseMlp], spec: ExpertsSpec) -> Mlp:
        """Keep them as they are."""
        return ExpertsMlp(router, list(parts), spec.experts)


class GroupedTriton:
    """`GroupedExperts`, by Triton's kernels."""

    name = "experts-triton"

    def __init__(self, gpu: Callable[[], machine.Gpu | str] = machine.present) -> None:
        """`gpu` finds it, or says why there is none."""
        self._gpu = gpu

    def can_run(self, spec: ExpertsSpec) -> Verdict:
        """Run what cuBLAS or the kernels of `WeightOnlyTriton` would compute for each expert."""
        if spec.gate_up.device != "cuda":
            return Verdict(ok=False, reason=f"runs on cuda, asked for {spec.gate_up.device}")
        if isinstance(found := self._gpu(), str):
            return Verdict(ok=False, reason=found)
        if spec.shared:
            return Verdict(ok=False, reason="whole experts, asked for parts of which other ranks have the rest")
        if spec.experts.count > _MOST:
            return Verdict(ok=False, reason=f"chooses among up to {_MOST} experts, asked for {spec.experts.count}")
        for linear in (spec.gate_up, spec.down):
            verdicts = [FloatCuda().can_run(linear), WeightOnlyTriton(self._gpu).can_run(linear)]
            if not any(verdict.ok for verdict in verdicts):
                return Verdict(ok=False, reason=f"{linear.role}: " + ", ".join(one.reason for one in verdicts))
        return Verdict(ok=True, reason="rows are sorted by expert on the device; one launch for each product")

    def make(self, router: Linear, parts: Iterable[DenseMlp], spec: ExpertsSpec) -> Mlp:
        """Lay the experts' weights side by side."""
        from argosy_worker.compute.fused_mlp import GroupedExperts  # noqa: PLC0415  # loads Triton

        return GroupedExperts(router, parts, spec.experts, spec.activation)


KERNELS: tuple[ExpertsKernel, ...] = (GroupedTriton(), EachExpert())


def choose_experts(spec: ExpertsSpec, kernels: Sequence[ExpertsKernel] = KERNELS) -> tuple[ExpertsKernel, str]:
    """The first kernel that can run a layer's experts, with the reason.

    Raises:
        ModelUnsupportedError: none can; the message has every kernel's reason.

    """
    return first_able(kernels, lambda kernel: kernel.can_run(spec), "experts")
