"""The threads of the native kernels, and whether a call uses all of them or one."""

import ctypes
import math
import time
import weakref
from collections.abc import Callable, Hashable

from argosy_worker.compute.native import library

_FIRST_WAIT, _LONGEST_WAIT = 16, 2048
_KEEP = 0.93
_LEFT = 1.5
"""A way is left when it has become so many times slower than the other one was: on an idle machine, too, some
calls take several times their time, and the mean of a dozen calls goes up and down."""
_TRIAL = 3
"""Calls that a trial has at most: where the first ones are slower it is over."""
_TRIAL_S = 4.0
"""A call on one thread is tried where it would take no longer than this if threads shared the work evenly."""
_NO_TOKEN = 2
"""What a call answers that was given one that there is not."""
_GONE = 3
"""What a call answers whose layers are shared with a rank that is gone."""
_SUSPECT = 0.5
"""Share of the time on one thread from which on all threads together are suspected to be the slower way."""


class BrokenOffError(Exception):
    """A step of shared layers was broken off; whoever joins them knows why."""


class Together:
    """Whether calls of about as many rows are faster on all threads or on one. Pure.

    On an idle machine all threads win. On a busy one a thread that was put aside holds up all others at each of the
    hundreds of places where they wait for each other, and one thread alone is many times faster. Both are measured;
    the other one is tried again after ever more calls while it stays the slower one.
    """

    def __init__(self, threads: int = 2) -> None:
        self._threads = threads
        self._seconds: dict[bool, float] = {}
        """Of a row, for all threads and for one."""
        self._now = True
        """Whether calls are made on all threads, but for trials."""
        self._trial: list[float] = []
        self._wait = self._left = _FIRST_WAIT

    def choose(self, rows: int = 1) -> bool:
        """How to make the next call, of so many rows; `note` is told of it."""
        if True not in self._seconds:
            return True
        if False not in self._seconds:  # large steps of large machines are not stopped for it
            return self._seconds[True] * rows * self._threads > _TRIAL_S
        if self._left > 0:
            return self._now
        if self._now and self._seconds[True] < _SUSPECT * self._seconds[False]:
            return True
        return not self._now

    def note(self, seconds: float, *, together: bool) -> None:
        """A call took so long for each row."""
        if together not in self._seconds:
            self._seconds[together] = seconds
            self._now = self._seconds[True] <= self._seconds.get(False, math.inf)
            return
        if together is self._now:
            self._seconds[together] = _KEEP * self._seconds[together] + (1 - _KEEP) * seconds
            self._left -= 1
            if self._seconds[together] > _LEFT * self._seconds.get(not together, math.inf):
                self._take(not together, max(_FIRST_WAIT, self._wait // 2))
            return
        self._trial.append(seconds)
        mean = sum(self._trial) / len(self._trial)
        better = mean < self._seconds[self._now]
        if better and len(self._trial) < _TRIAL:
            return
        self._trial.clear()
        self._seconds[together] = mean
        if better:
            self._take(together, self._wait)
        else:
            self._take(self._now, min(2 * self._wait, _LONGEST_WAIT))

    def _take(self, together: bool, wait: int) -> None:
        self._now, self._wait, self._left = together, wait, wait


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
        self._sizes: dict[tuple[Hashable, int], Together] = {}
        if not self._handle:
            raise RuntimeError(f"this processor has no {self.kernels}, or there are no {threads} threads to be had")
        weakref.finalize(self, loaded.argosy_close, self._handle)

    def forward(  # as the library has it
        self, layers: ctypes.Array[library.Layer], step: library.Step, cos: ctypes.Array[ctypes.c_void_p],
        sin: ctypes.Array[ctypes.c_void_p], x: int,
    ) -> None:  # fmt: skip
        """Layers one after the other: x points to fp32 [rows, hidden], which is changed in place."""
        self._timed(len(layers), step.rows, lambda together: self._library.argosy_forward(
            self._handle, ctypes.addressof(layers), len(layers), ctypes.addressof(step), ctypes.addressof(cos),
            ctypes.addressof(sin), x, together,
        ))  # fmt: skip

    def step(  # noqa: PLR0917  # as the library has it
        self, layers: ctypes.Array[library.Layer], step: library.Step, cos: ctypes.Array[ctypes.c_void_p],
        sin: ctypes.Array[ctypes.c_void_p], ends: library.Ends, tokens: int, draws: ctypes.Array[library.Draw], x: int,
        logits: int, picked: int,
    ) -> None:  # fmt: skip
        """Tokens [rows] int32 -> picked [rows] int32; -1 where a row's logits are not finite."""
        self._timed(("step", len(layers)), step.rows, lambda together: self._library.argosy_step(
            self._handle, ctypes.addressof(layers), len(layers), ctypes.addressof(step), ctypes.addressof(cos),
            ctypes.addressof(sin), ctypes.addressof(ends), tokens, ctypes.addressof(draws), x, logits, picked, together,
        ))  # fmt: skip

    def linear(self, weights: library.Linear, x: int, rows: int, out: int) -> None:
        """X [rows, in] fp32 -> out [rows, out] fp32."""
        self._timed((weights.inputs, weights.outputs), rows, lambda together: self._library.argosy_project(
            self._handle, ctypes.addressof(weights), None, 0.0, x, rows, out, together
        ))  # fmt: skip

    def logits(self, weights: library.Linear, norm: int, eps: float, x: int, rows: int, out: int) -> None:  # noqa: PLR0917
        """X [rows, in] fp32, normed by fp32 [in] at `norm`, -> out [rows, out] fp32."""
        self._timed((weights.inputs, weights.outputs), rows, lambda together: self._library.argosy_project(
            self._handle, ctypes.addressof(weights), norm, eps, x, rows, out, together
        ))  # fmt: skip

    def healthy(self, logits: int, rows: int, vocab: int, fine: int) -> None:
        """Logits [rows, vocab] fp32 -> fine [rows] uint8: 1 where a row is finite."""
        self._timed("healthy", rows, lambda together: self._library.argosy_healthy(
            self._handle, logits, rows, vocab, fine, together
        ), least=2)  # fmt: skip

    def pick(self, logits: int, draws: ctypes.Array[library.Draw], vocab: int, tokens: int) -> None:
        """Logits [rows, vocab] fp32, finite -> tokens [rows] int32."""
        drawn = any(draw.temperature for draw in draws)
        self._timed(("pick", drawn), len(draws), lambda together: self._library.argosy_pick(
            self._handle, logits, len(draws), vocab, ctypes.addressof(draws), tokens, together
        ), least=2)  # fmt: skip

    def _timed(self, what: Hashable, rows: int, call: Callable[[bool], int], *, least: int = 1) -> None:
        """Make a call on all threads or on one; of fewer rows than `least` only one would work."""
        if self._threads == 1 or rows < least:
            _check(call(False))
            return
        size = (what, rows.bit_length())
        choice = self._sizes.get(size)
        if choice is None:
            choice = self._sizes[size] = Together(self._threads)
        together, begun = choice.choose(rows), time.perf_counter()
        _check(call(together))
        choice.note((time.perf_counter() - begun) / rows, together=together)


def _check(failed: int) -> None:
    if failed == _NO_TOKEN:
        raise IndexError("a token that the vocabulary does not have")
    if failed == _GONE:
        raise BrokenOffError
    if failed:
        raise MemoryError("the native kernels have no memory for this step")
