"""The threads of the native kernels, and whether a call uses all of them or one."""

import ctypes
import time
import weakref
from collections.abc import Callable

from argosy_worker.compute.native import library

_FIRST_WAIT, _LONGEST_WAIT = 16, 2048
_KEEP = 0.7


class Together:
    """Whether calls of about as many rows are faster on all threads or on one. Pure.

    On an idle machine all threads win. On a busy one a thread that was put aside holds up all others at each of the
    hundreds of places where they wait for each other, and one thread alone is many times faster. Both are measured;
    the slower one is tried again after ever more calls while it stays the slower one.
    """

    def __init__(self) -> None:
        self._seconds: dict[bool, float] = {}
        """Of a row, for all threads and for one."""
        self._wait = self._left = _FIRST_WAIT

    def choose(self) -> bool:
        """How to make the next call; `note` is told of it."""
        for way in (True, False):
            if way not in self._seconds:
                return way
        best = self._best
        return not best if self._left <= 0 else best

    @property
    def _best(self) -> bool:
        return self._seconds[True] <= self._seconds[False]

    def note(self, seconds: float, *, together: bool) -> None:
        """A call took so long for each row."""
        if len(self._seconds) < 2:
            self._seconds[together] = seconds
            return
        best = self._best
        if together is best:
            self._seconds[together] = _KEEP * self._seconds[together] + (1 - _KEEP) * seconds
            self._left -= 1
            return
        self._seconds[together] = seconds
        self._wait = min(2 * self._wait, _LONGEST_WAIT) if self._best is best else _FIRST_WAIT
        self._left = self._wait


class Crew:
    """Threads and their room for what lies between the parts of a layer. Used by one thread at a time."""

    def __init__(self, threads: int, kernels: str = "") -> None:
        """`kernels`: of this instruction set; the best by default. Raises RuntimeError where there are none."""
        loaded = library.load()
        self.kernels = kernels or library.kernels()
        if loaded is None or not self.kernels:
            raise RuntimeError("there are no native kernels here")
        self._library = loaded
        self._threads = threads
        self._handle = loaded.argosy_open(threads, self.kernels.encode())
        self._sizes: dict[tuple[str, int], Together] = {}
        weakref.finalize(self, loaded.argosy_close, self._handle)

    def forward(  # as the library has it
        self, layers: ctypes.Array[library.Layer], step: library.Step, cos: ctypes.Array[ctypes.c_void_p],
        sin: ctypes.Array[ctypes.c_void_p], x: int,
    ) -> None:  # fmt: skip
        """Layers one after the other: x points to fp32 [rows, hidden], which is changed in place."""
        self._timed("forward", step.rows, lambda together: self._library.argosy_forward(
            self._handle, ctypes.addressof(layers), len(layers), ctypes.addressof(step), ctypes.addressof(cos),
            ctypes.addressof(sin), x, together,
        ))  # fmt: skip

    def linear(self, weights: library.Linear, x: int, rows: int, out: int) -> None:
        """X [rows, in] fp32 -> out [rows, out] fp32."""
        self._timed(f"{weights.inputs} {weights.outputs}", rows, lambda together: self._library.argosy_project(
            self._handle, ctypes.addressof(weights), None, 0.0, x, rows, out, together
        ))  # fmt: skip

    def _timed(self, what: str, rows: int, call: Callable[[bool], object]) -> None:
        if self._threads == 1:
            call(False)
            return
        choice = self._sizes.setdefault((what, rows.bit_length()), Together())
        together, begun = choice.choose(), time.perf_counter()
        call(together)
        choice.note((time.perf_counter() - begun) / rows, together=together)
