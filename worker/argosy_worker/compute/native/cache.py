"""The paged cache of keys and values for native kernels, and the memory for evicted blocks beside it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from argosy_api.errors import InvalidArgumentError, ModelUnsupportedError
from argosy_worker.arrays import address
from argosy_worker.compute.attention.backend import KvSpec
from argosy_worker.compute.native.arena import large_pages, take
from argosy_worker.core.host import Move

ELEMENTS: dict[str, type[np.number[Any]]] = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8}
_INFINITE: dict[int, tuple[type[np.unsignedinteger[Any]], int]] = {2: (np.uint16, 0x7C00), 4: (np.uint32, 0x7F800000)}
"""Of fp16 and fp32: all bits of the exponent, which what is infinite or no number has."""
_MOST_SCALE = 1e35
"""As on torch (`attention/kv_types.py`): code times scale is finite."""


class NativeKvCache:
    """Keys and values: [layers, blocks + 1, 2, kv_heads, block_size, head_dim]; block 0 is the null block.

    Of int8 each row has a scale beside it. Keys lie within a block as argosy_cpu.h says; an exported block is as
    `LAYOUT_VERSION` says.
    """

    def __init__(
        self, spec: KvSpec, blocks: int, *, touch: bool = False, host_blocks: int = 0, threads: int = 1
    ) -> None:
        """With `touch` all of its memory is taken now, on so many threads, else as blocks are first used.

        Raises:
            ModelUnsupportedError: there is no host memory for so many evicted blocks.

        """
        self.spec = spec
        self.layout = spec.describe()
        self._blocks = blocks
        kind = np.dtype(ELEMENTS[spec.dtype])
        block = (2, spec.kv_heads, spec.block_size, spec.head_dim)
        size = (blocks + 1) * spec.rows * spec.head_dim * kind.itemsize
        # zeros: padding reads the null block, and 0 * NaN is not 0
        memory = large_pages(size)[:size] if touch else np.zeros(size, dtype=np.uint8)
        self._held: npt.NDArray[Any] = memory.view(kind).reshape(spec.layers, blocks + 1, *block)
        if touch:
            take(memory, threads)
        scaled = block[:-1] if spec.dtype == "int8" else (0,)
        self._scales = np.zeros((spec.layers, blocks + 1, *scaled), dtype=np.float32)
        if touch:
            self._scales.fill(0)
        self._parts = (self._held, self._scales)
        self.bytes_per_block = sum(part[:, 0].nbytes for part in self._parts)
        self._host = [_taken((host_blocks, spec.layers, *part.shape[2:]), part.dtype) for part in self._parts]

    @property
    def places(self) -> list[tuple[int, int]]:
        """Where each layer's part lies, and its scales, where there are any."""
        none = self.spec.dtype != "int8"
        return [
            (address(layer), 0 if none else address(scales))
            for layer, scales in zip(self._held, self._scales, strict=True)
        ]

    def export(self, block: int) -> bytes:
        """The content of a block, over all layers."""
        self._check(block)
        return b"".join(part[:, block].tobytes() for part in self._parts)

    def export_host(self, slot: int) -> bytes:
        """The content of a slot in host memory, in the same form."""
        return b"".join(part[slot].tobytes() for part in self._host)

    def move(self, moves: Sequence[Move]) -> None:
        """Copy blocks to slots in host memory and back, one after the other; all is copied on return."""
        for move in moves:
            for part, host in zip(self._parts, self._host, strict=True):
                if move.out:
                    host[move.slot] = part[:, move.block]
                else:
                    part[:, move.block] = host[move.slot]

    def import_(self, block: int, content: bytes) -> None:
        """Put exported content into a block. What is no number becomes 0, what is infinite the largest number."""
        self._check(block)
        if len(content) != self.bytes_per_block:
            raise InvalidArgumentError("content", f"has {len(content)} bytes; a block has {self.bytes_per_block}")
        held, scales = self._held[:, block], self._scales[:, block]
        found = np.frombuffer(content, dtype=held.dtype, count=held.size).reshape(held.shape)
        self._held[:, block] = found if _finite(found) else np.nan_to_num(found)
        behind = np.frombuffer(content, dtype=np.float32, offset=held.nbytes).reshape(scales.shape)
        self._scales[:, block] = np.clip(np.nan_to_num(behind), 0, _MOST_SCALE)

    def _check(self, block: int) -> None:
        if not 1 <= block <= self._blocks:
            raise InvalidArgumentError("block", f"is {block}; the cache has the blocks 1 to {self._blocks}")


def _finite(numbers: npt.NDArray[Any]) -> bool:
    """Whether all are: told by their exponents' bits, as numpy computes with fp16 one by one."""
    if numbers.dtype.kind != "f":
        return True
    of, infinite = _INFINITE[numbers.dtype.itemsize]
    return bool((numbers.view(of) & infinite).max(initial=0) < infinite)


def _taken(shape: tuple[int, ...], kind: np.dtype[Any]) -> npt.NDArray[Any]:
    try:
        return np.full(shape, 0, dtype=kind)
    except MemoryError as error:
        raise ModelUnsupportedError(f"engine.kvCacheHostMemory: so much memory is not to be had: {error}") from None
