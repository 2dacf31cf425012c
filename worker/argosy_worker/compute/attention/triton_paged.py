"""Paged attention by Triton's kernels: an `AttentionBackend` over the same cache as that on torch. Loads Triton."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from argosy_worker.compute.attention.cache import PagedKvCache
from argosy_worker.compute.config import LayerSpec
from argosy_worker.compute.triton import step, tiles
from argosy_worker.compute.triton.attention import E4M3, INT8, NOTHING, PLAIN, Pages, Scores, Turn, attend
from argosy_worker.compute.triton.attention import turn_and_write as write
from argosy_worker.core.layout import StepLayout

_CODES = {"int8": INT8, "fp8": E4M3}


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedStep:
    """What kernels read of steps of one shape, in memory that stays, and their launches."""

    arrays: step.StepArrays
    launches: tuple[tiles.Launch, ...]

    @property
    def positions(self) -> Tensor:
        """int32 [rows]."""
        return self.arrays.positions


class PagedTriton:
    """For layers of one shape. `invariant`: a row's bits depend neither on its company nor on how prompts are cut."""

    def __init__(
        self, cache: PagedKvCache, specs: Sequence[LayerSpec], *, multiprocessors: int, invariant: bool = False
    ) -> None:
        """`multiprocessors`: of the GPU; where a step has less to do than keeps these busy, keys are cut."""
        self.cache = cache
        self._specs, self._multiprocessors, self._invariant = specs, multiprocessors, invariant
        self._shape = tiles.Heads(
            heads=specs[0].heads,
            kv_heads=specs[0].kv_heads,
            head_dim=specs[0].head_dim,
            width=cache.dtype.itemsize,
            coded=cache.coded,
        )
        self._pages = [
            Pages(elements=cache.elements(i), scales=cache.scales(i), code=_CODES.get(cache.spec.dtype, PLAIN))
            for i in range(len(specs))
        ]
        self._layout: StepLayout | None = None
        self._launches: tuple[tiles.Launch, ...] = ()
        self._arrays: step.StepArrays | None = None

    @property
    def layout(self) -> StepLayout:
        """The step that was prepared last."""
        if self._layout is None:
            raise RuntimeError("attend before prepare")
        return self._layout

    def prepare(self, layout: StepLayout) -> None:
        """Take up a step: what its kernels read goes to the device, in one copy."""
        plan = self._plan(layout)
        self._layout, self._launches = layout, plan.launches
        self._arrays = step.put(layout, plan, self.cache.device)

    def fix(self, layout: StepLayout, keys: int) -> FixedStep:
        """Room for the arrays of steps of this shape, whose sequences have so many keys at most."""
        plan = self._plan(layout)
        launches = tuple(replace(launch, keys=keys) for launch in plan.launches)
        return FixedStep(arrays=step.put(layout, plan, self.cache.device), launches=launches)

    def take(self, fixed: FixedStep, layout: StepLayout) -> None:
        """`prepare` in this room."""
        self._layout, self._launches, self._arrays = layout, fixed.launches, fixed.arrays
        step.put_again(fixed.arrays, layout, self._plan(layout))

    def _plan(self, layout: StepLayout) -> tiles.Plan:
        return tiles.plan(self._shape, layout.cu_rows, layout.context_lens, invariant=self._invariant)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None = None) -> Tensor:
        """Store keys and values and attend, as the protocol says."""
        return self.turn_and_attend(layer, q, k, v, NOTHING, sinks)

    def turn_and_attend(  # noqa: PLR0917  # as `attend`
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, turn: Turn, sinks: Tensor | None = None
    ) -> Tensor:
        """The same for queries and keys that are still to be normed and rotated, in the launch that stores the keys."""
        if self._arrays is None:
            raise RuntimeError("attend before prepare")
        spec, pages = self._specs[layer], self._pages[layer]
        whole = turn is NOTHING and not pages.code
        turned = write(None if whole else q, k, v, pages, self._shape, self._arrays.slots, turn)
        return attend(
            q if turned is None else turned,
            pages,
            Scores(scale=spec.scale, softcap=spec.softcap, window=spec.window, sinks=sinks),
            self._shape,
            self._arrays,
            self._launches,
            multiprocessors=self._multiprocessors,
            invariant=self._invariant,
        )
