"""How the rows of a step go from rank to rank, and from the last one back to rank 0: by torch.distributed.

A step is a header of fixed size, the step's layout as one array (both by Gloo), and the rows (`rows`). The layout goes
with each step, so that a rank needs no state of its own but its weights and its part of the KV cache. No operation has
a time limit: an idle group waits for its next step for as long as it takes. That a peer has ended Gloo tells at once,
that one hangs by the beats of `lines`.
"""

import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from argosy_api import net
from argosy_api.pipeline import Place
from argosy_worker.core.batch import RunnerBrokenError
from argosy_worker.core.layout import StepLayout
from argosy_worker.group import rows as ways
from argosy_worker.group.backend import Backend

_ALL = (net.EVERYWHERE, "0.0.0.0")
_FOREVER = timedelta(days=3650)
_JOIN = timedelta(minutes=10)
"""For all to take the memory of their KV caches. Who is gone is noticed before."""
_HEADER = 7
_ARRAYS = ("positions", "cu_rows", "context_lens", "block_table", "slots")
_DTYPES = (torch.float32, torch.bfloat16)


class Kind(IntEnum):
    """What a header announces."""

    STEP = 1
    FAILED = 2
    """A rank could not compute the step; nothing follows."""
    HEAD = 3
    """Rows of which the logits are wanted."""


@dataclass(frozen=True, slots=True)
class Passed:
    """What came from the rank before."""

    kind: Kind
    layout: StepLayout | None = None
    rows: Tensor | None = None


class Ring:
    """One rank's place in it. Owned by one thread. All methods raise RunnerBrokenError when another rank is gone."""

    def __init__(self, group: Any, rows: ways.Rows, place: Place, joint: ways.Joint | None = None) -> None:
        """`group`: of all ranks, for what the CPU makes and reads. `rows`: what moves rows. `joint`: what joins those
        of a stage.
        """
        self._group, self._rows, self.place, self._joint = group, rows, place, joint

    @staticmethod
    def store(host: str) -> tuple[Any, int]:
        """Where the ranks of a new ring find each other, and its port."""
        listening = net.listen(host, 0)
        port: int = listening.getsockname()[1]
        store = dist.TCPStore(  # type: ignore[attr-defined]  # not in its stubs
            "127.0.0.1" if host in _ALL else host, port, None, is_master=True, wait_for_workers=False, timeout=_JOIN,
            use_libuv=False, master_listen_fd=listening.detach(),
        )  # fmt: skip
        return store, port

    @staticmethod
    def store_of(host: str, port: int, ranks: int) -> Any:
        """The same, seen from another rank."""
        with _gone():
            return dist.TCPStore(  # type: ignore[attr-defined]  # not in its stubs
                host, port, ranks, is_master=False, wait_for_workers=False, timeout=_JOIN, use_libuv=False
            )

    @classmethod
    def join(
        cls, store: Any, place: Place, host: str, *, backend: Backend = Backend.GLOO, device: str = "cpu"
    ) -> "Ring":
        """Wait for all, and connect each with each.

        `host`: the address of this process, or any of its machine's. `device`: where its rows are computed.
        """
        options: Any = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # noqa: SLF001  # for the address
        options._timeout = _FOREVER  # noqa: SLF001
        address = socket.gethostname() if host in _ALL else host
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=address)]  # noqa: SLF001
        with _gone():
            gloo = dist.ProcessGroupGloo(store, place.rank, place.ranks, options)
            rows = ways.make(backend, torch.device(device), gloo=gloo, store=store, place=place)
            joint = None
            if place.parts > 1:
                joint = ways.make_joint(backend, torch.device(device), store=store, place=place, options=options)
        return cls(gloo, rows, place, joint)

    def share(self, layout: StepLayout, rows: Tensor) -> None:
        """Give a step to the other ranks of stage 0."""
        for peer in self.place.peers:
            self._pass(layout, rows, peer)

    def send(self, layout: StepLayout | None, rows: Tensor) -> None:
        """Pass rows [R, hidden] on, where somebody waits for them; the last rank needs no layout with them."""
        if self.place.after is not None:
            self._pass(layout, rows, self.place.after)

    def join_columns(self, x: Tensor, widths: Sequence[int]) -> Tensor:
        """Columns [R, n] of this rank and those of the others of its stage, in order: [R, sum of `widths`]."""
        if self._joint is None:
            raise RunnerBrokenError("no other rank shares this one's layers")
        with _gone():
            return self._joint(x, widths)

    def logits(self, rows: Tensor, head: Callable[[Tensor], Tensor], widths: Sequence[int]) -> Tensor:
        """Have the other ranks of stage 0 compute their parts of the logits of rows [R, hidden]: [R, all `widths`]."""
        for peer in self.place.peers:
            self._send(_header(Kind.HEAD, *rows.shape, 0, 0, 0, _DTYPES.index(rows.dtype)), peer)
            with _gone():
                self._rows.send(rows, peer)
        parts = [head(rows)]
        for peer in self.place.peers:
            with _gone():
                parts.append(self._rows.receive((len(rows), widths[peer]), parts[0].dtype, peer).clone())
        return torch.cat(parts, 1)

    def answer(self, logits: Tensor) -> None:
        """Send rank 0 this one's part of the logits."""
        with _gone():
            self._rows.send(logits, 0)

    def _pass(self, layout: StepLayout | None, rows: Tensor, to: int) -> None:
        arrays = [] if layout is None else [getattr(layout, name).ravel() for name in _ARRAYS]
        slices, columns, block_size = (0, 0, 0) if layout is None else (*layout.block_table.shape, layout.block_size)
        self._send(_header(Kind.STEP, *rows.shape, slices, columns, block_size, _DTYPES.index(rows.dtype)), to)
        if arrays:
            self._send(torch.from_numpy(np.concatenate(arrays)), to)
        with _gone():
            self._rows.send(rows, to)

    def fail(self) -> None:
        """Pass on that the step could not be computed."""
        if self.place.after is not None:
            self._send(_header(Kind.FAILED), self.place.after)

    def receive(self) -> Passed:
        """Wait for what the rank before passes on."""
        kind, count, hidden, slices, columns, block_size, dtype = self._receive((_HEADER,), torch.int64).tolist()
        if kind == Kind.FAILED:
            return Passed(Kind.FAILED)
        layout = self._layout(count, slices, columns, block_size) if slices else None
        with _gone():
            rows = self._rows.receive((count, hidden), _DTYPES[dtype], self.place.before)
        return Passed(Kind(kind), layout, rows)

    def _layout(self, rows: int, slices: int, columns: int, block_size: int) -> StepLayout:
        sizes = (rows, slices + 1, slices, slices * columns, rows)
        whole = self._receive((sum(sizes),), torch.int32).numpy()
        parts = dict(zip(_ARRAYS, np.split(whole, np.cumsum(sizes)[:-1]), strict=True))
        table = parts.pop("block_table").reshape(slices, columns)
        return StepLayout(**parts, block_table=table, block_size=block_size)

    def _send(self, tensor: Tensor, to: int) -> None:
        with _gone():
            self._group.send([tensor], to, 0).wait()

    def _receive(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        tensor = torch.empty(shape, dtype=dtype)
        with _gone():
            self._group.recv([tensor], self.place.before, 0).wait()
        return tensor


@contextlib.contextmanager
def _gone() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # all that Gloo and NCCL raise
        raise RunnerBrokenError("another rank of the group is gone") from error


def _header(kind: Kind, *values: int) -> Tensor:
    return torch.tensor([kind, *values, *[0] * (_HEADER - 1 - len(values))], dtype=torch.int64)
