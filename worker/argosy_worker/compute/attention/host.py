"""Room for evicted blocks in the memory of the host, and the copies between it and the cache on the device."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from argosy_api.errors import ModelUnsupportedError
from argosy_worker.core.host import Move

_STAGED_BYTES = 64 * 1024 * 1024
"""Of blocks on their way, that the device holds a second time."""


class Blocks(Protocol):
    """The cache on the device, block by block. A block's content is uint8 [bytes_per_block]."""

    def gather(self, blocks: Sequence[int]) -> Tensor:
        """What n blocks hold, on the device: uint8 [n, bytes_per_block]."""
        ...

    def scatter(self, blocks: Sequence[int], contents: Tensor) -> None:
        """Put it into n different blocks."""
        ...


class HostMemory:
    """Slots 0 .. slots - 1, taken at once: uint8 [slots, bytes_per_block].

    For a GPU they are pinned, so that its copy engine reads and writes them; each slot holds a block of all layers, so
    one copy moves it.
    """

    def __init__(self, slots: int, bytes_per_block: int, device: torch.device) -> None:
        """`device`: the cache's.

        Raises:
            ModelUnsupportedError: there is not so much memory.

        """
        self._device = device
        self._staged = max(1, _STAGED_BYTES // bytes_per_block)
        shape, pinned = (slots, bytes_per_block), device.type == "cuda"
        try:
            self._slots = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned).zero_()
        except RuntimeError as error:
            kind = "pinned memory" if pinned else "memory"
            raise ModelUnsupportedError(
                f"engine.kvCacheHostMemory: {slots * bytes_per_block} bytes of {kind} are not to be had: {error}"
            ) from None

    def read(self, slot: int) -> bytes:
        """What a slot holds."""
        return self._slots[slot].numpy().tobytes()

    def move(self, moves: Sequence[Move], blocks: Blocks) -> None:
        """Make the moves, one after the other; all is copied on return."""
        for run in _runs(moves, self._staged):
            numbers = [move.block for move in run]
            if run[0].out:
                contents = blocks.gather(numbers)
                for move, content in zip(run, contents, strict=True):
                    self._slots[move.slot].copy_(content, non_blocking=True)
            else:
                contents = torch.empty((len(run), self._slots.shape[1]), dtype=torch.uint8, device=self._device)
                for move, content in zip(run, contents, strict=True):
                    content.copy_(self._slots[move.slot], non_blocking=True)
                blocks.scatter(numbers, contents)
        if moves and self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()


def _runs(moves: Sequence[Move], most: int) -> Iterator[list[Move]]:
    """Moves that can be made at the same time: in one direction, each to another place."""
    run: list[Move] = []
    targets: set[int] = set()
    for move in moves:
        target = move.slot if move.out else move.block
        if run and (move.out != run[0].out or target in targets or len(run) == most):
            yield run
            run, targets = [], set()
        run.append(move)
        targets.add(target)
    if run:
        yield run
