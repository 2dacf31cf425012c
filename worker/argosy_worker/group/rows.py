"""The two ways of rows from one rank's device to another's; `backend` says which a group takes."""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812  # the name that torch users know
from torch import Tensor

from argosy_api.pipeline import Place
from argosy_worker.group.backend import Backend


class Rows(Protocol):
    """Moves the rows of a step. Raises RuntimeErrors of torch.distributed when the other rank is gone."""

    def send(self, rows: Tensor, rank: int) -> None:
        """Rows [R, hidden], on the device. They may be overwritten afterwards."""
        ...

    def receive(self, shape: tuple[int, ...], dtype: torch.dtype, rank: int) -> Tensor:
        """Rows on the device, valid until the next call."""
        ...


class Staging:
    """Copies between a device and host memory that Gloo reads and writes; on a CPU there is nothing to copy.

    The memory is taken once and kept; on CUDA it is pinned, so that the GPU copies by itself. Copies are waited for:
    Gloo reads what is there, and the next rows overwrite it.
    """

    def __init__(self, device: torch.device, *, copied: bool | None = None) -> None:
        """`copied`: whether there are copies; None: where the device is none of the host's."""
        self._device = device
        self._copied = device.type != "cpu" if copied is None else copied
        self._out = self._in = torch.empty(0, dtype=torch.uint8)

    def out(self, rows: Tensor) -> Tensor:
        """The same rows in host memory, valid until the next call."""
        if not self._copied:
            return rows.contiguous()
        self._out = self._least(self._out, rows.shape, rows.dtype)
        host = _view(self._out, rows.shape, rows.dtype)
        host.copy_(rows)
        return host

    def room(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Host memory for rows that come, until `back` is called for them."""
        if not self._copied:
            return torch.empty(shape, dtype=dtype)
        self._in = self._least(self._in, shape, dtype)
        return _view(self._in, shape, dtype)

    def back(self, host: Tensor) -> Tensor:
        """The same rows on the device."""
        return host.to(self._device, copy=True) if self._copied else host

    def _least(self, held: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """`held`, or more memory where it is too small."""
        size = math.prod(shape) * dtype.itemsize
        if size <= len(held):
            return held
        return torch.empty(size, dtype=torch.uint8, pin_memory=self._device.type == "cuda")


class GlooRows:
    """Through host memory."""

    def __init__(self, group: Any, staging: Staging) -> None:
        self._group, self._staging = group, staging

    def send(self, rows: Tensor, rank: int) -> None:
        """As the protocol says."""
        self._group.send([self._staging.out(rows)], rank, 0).wait()

    def receive(self, shape: tuple[int, ...], dtype: torch.dtype, rank: int) -> Tensor:
        """As the protocol says."""
        host = self._staging.room(shape, dtype)
        self._group.recv([host], rank, 0).wait()
        return self._staging.back(host)


class NcclRows:
    """From GPU to GPU. A header has told that rows come, so that no GPU spins while its group has nothing to do.

    `wait` has the GPU's stream wait, not this thread: that the other rank is gone is told by `lines`.
    """

    def __init__(self, group: Any, device: torch.device) -> None:
        self._group, self._device = group, device

    def send(self, rows: Tensor, rank: int) -> None:
        """As the protocol says."""
        self._group.send([rows.contiguous()], rank, 0).wait()

    def receive(self, shape: tuple[int, ...], dtype: torch.dtype, rank: int) -> Tensor:
        """As the protocol says."""
        rows = torch.empty(shape, dtype=dtype, device=self._device)
        self._group.recv([rows], rank, 0).wait()
        return rows


def make(backend: Backend, device: torch.device, *, gloo: Any, store: Any, place: Place) -> Rows:
    """What moves rows; `gloo` is the group of all ranks that headers take. Raises RuntimeError where NCCL fails."""
    if backend is Backend.GLOO:
        return GlooRows(gloo, Staging(device))
    return NcclRows(_nccl("nccl", store, place.rank, place.ranks), device)


class Joint:
    """Joins the columns that the ranks of a stage have, by a group of their own. Every rank calls it for the same rows.

    All send as many bytes as the widest of them: the exchange knows one size.
    """

    def __init__(self, group: Any, staging: Staging | None) -> None:
        """`staging`: where the group reads host memory; None where it reads the device's."""
        self._group, self._staging = group, staging

    def __call__(self, x: Tensor, widths: Sequence[int]) -> Tensor:
        """[R, n] -> [R, sum of `widths`], fresh; `widths` are those of all ranks, in order."""
        rows, most = len(x), max(widths)
        mine = x if x.shape[1] == most else F.pad(x, (0, most - x.shape[1]))
        held = mine.contiguous() if self._staging is None else self._staging.out(mine)
        # in bytes, so that it is no matter which numbers a backend knows
        found = [torch.empty((rows, most), dtype=held.dtype, device=held.device) for _ in widths]
        self._group.allgather([[one.view(torch.uint8) for one in found]], [held.view(torch.uint8)]).wait()
        joined = torch.cat([one[:, :width] for one, width in zip(found, widths, strict=True)], 1)
        return joined if self._staging is None else self._staging.back(joined)


def make_joint(backend: Backend, device: torch.device, *, store: Any, place: Place, options: Any) -> Joint:
    """Of the ranks of this one's stage. `options`: of Gloo. Raises RuntimeErrors of torch.distributed."""
    name, (part, parts) = f"stage{place.stage}", place.cut
    if backend is Backend.NCCL:
        return Joint(_nccl(f"{name}-nccl", store, part, parts), None)
    apart = dist.PrefixStore(name, store)  # type: ignore[attr-defined]  # not in its stubs
    return Joint(dist.ProcessGroupGloo(apart, part, parts, options), Staging(device))


def _nccl(name: str, store: Any, rank: int, ranks: int) -> Any:
    nccl: Any = getattr(dist, "ProcessGroupNCCL")  # noqa: B009  # not there without CUDA
    return nccl(dist.PrefixStore(name, store), rank, ranks, nccl.Options())  # type: ignore[attr-defined]


def _view(held: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return held[: math.prod(shape) * dtype.itemsize].view(dtype).view(shape)
