"""The model that is quantized: it computes in fp32, is watched while it does, and takes over what was found."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from argosy_worker.compute.loaded import LoadedModel
from argosy_worker.compute.quant.formats import QuantTensor, from_plain
from argosy_worker.compute.quant.fp32_cpu import Fp32OneDnn, Fp32Tiles
from argosy_worker.evaluate.score import Progress, feed
from argosy_worker.machine import memory
from argosy_worker.models.build import assemble
from argosy_worker.models.open_model import OpenModel
from argosy_worker.quantize.gptq import round_plainly, search, solve
from argosy_worker.quantize.grids import Coded
from argosy_worker.quantize.observe import Observed, Observing, Recorder, Sums
from argosy_worker.quantize.targets import Method, Target

ENDS = ("embed", "head")
"""Roles that are no layer's: the embedding, and the LM head."""
_HESSIANS_SHARE = 0.25
"""Part of the free memory that sums over inputs may take at a time."""


class Subject:
    """An open model, loaded for the purpose. Holds its weights as they were, and in fp32."""

    def __init__(self, opened: OpenModel, *, threads: int, progress: Progress) -> None:
        self._found: list[Observed] = []
        self._recorder = Recorder(opened.weights)
        kernels = [Observing(kernel, self._recorder.role_of, self._found) for kernel in (Fp32OneDnn(), Fp32Tiles())]
        self.model: LoadedModel = assemble(
            replace(opened, weights=self._recorder),
            weights="none",
            compute="fp32",
            device="cpu",
            threads=threads,
            progress=progress,
            kernels=kernels,
        )

    @property
    def matrices(self) -> list[str]:
        """Roles of all matrices that the model reads."""
        return [role for role, _ in self._recorder.matrices.values()]

    @property
    def vectors(self) -> list[str]:
        """Roles of all vectors that the model reads."""
        return self._recorder.vectors

    def quantize(
        self, target: Target, method: Method, texts: Sequence[Sequence[int]], progress: Progress
    ) -> dict[str, Coded]:
        """Role of each layer's matrices -> what it becomes. Only gptq and search look at `texts`.

        gptq works in passes over as many layers as there is memory for: each runs the texts through the model with
        what was found for the layers before.
        """
        fits = [o for o in self._found if None not in o.roles and not set(o.roles) & set(ENDS)]
        fits = [o for o in fits if o.parts[0].cols % (target.for_rows(o.parts[0].cols).group or 1) == 0]
        found: dict[str, Coded] = {}
        with torch.inference_mode():
            for layers in _passes(fits, gathering=method != "round"):
                if method != "round":
                    self._watch(layers, texts, progress)
                for layer in layers:
                    coded = _solve(layer, target.for_rows(layer.parts[0].cols), method)
                    layer.linear.sums = None
                    found |= zip(_roles(layer), coded, strict=True)
                    if method == "gptq" and layers[-1] is not fits[-1]:
                        layer.linear.replace([from_plain(part.dequantize()) for part in coded])
                    progress("rounding", len(found) / sum(len(o.parts) for o in fits))
        return found

    def _watch(self, layers: Sequence[Observed], texts: Sequence[Sequence[int]], progress: Progress) -> None:
        for layer in layers:
            layer.linear.sums = Sums(layer.parts[0].cols)
        feed(self.model, texts, progress=progress)


def _passes(layers: Sequence[Observed], *, gathering: bool) -> list[list[Observed]]:
    """The layers in order, in groups whose sums over inputs fit into a part of the free memory."""
    room = int(memory().available * _HESSIANS_SHARE) if gathering else 1 << 62
    groups: list[list[Observed]] = []
    left = 0
    for layer in layers:
        need = layer.parts[0].cols ** 2 * 4
        if not groups or need > left:
            groups.append([])
            left = room
        groups[-1].append(layer)
        left -= need
    return groups


def _roles(layer: Observed) -> list[str]:
    return [role for role in layer.roles if role is not None]


def _solve(layer: Observed, target: Target, method: Method) -> list[Coded]:
    """All parts at once: they have the same inputs."""
    grid = target.grid
    if grid is None:
        raise ValueError(f"{target.name} has no grid")
    weight, sums = torch.cat([part.dequantize() for part in layer.parts]), layer.linear.sums
    if method == "round" or sums is None:
        coded = round_plainly(weight, grid, target.group)
    else:
        coded = search(weight, sums.squares, grid, target.group)
    if method == "gptq" and sums is not None:
        coded = solve(weight, sums.products, coded)
    return _split(coded, layer.parts)


def _split(coded: Coded, parts: Sequence[QuantTensor]) -> list[Coded]:
    found, begin = [], 0
    for part in parts:
        rows = slice(begin, begin + part.rows)
        offset = None if coded.offset is None else coded.offset[rows]
        units = None if coded.units is None else coded.units[rows]
        found.append(Coded(coded.grid, coded.codes[rows], coded.scale[rows], offset, units))
        begin += part.rows
    return found
