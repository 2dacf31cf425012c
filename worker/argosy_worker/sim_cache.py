"""The KV cache of the simulated model: running hashes in the place of keys and values, for each block and slot."""

import time
from collections.abc import Sequence
from hashlib import blake2b

from argosy_api.errors import InvalidArgumentError
from argosy_worker.core.host import Move

State = bytes
START: State = b"argosy-sim"
"""The hash before the first token."""
STATE_BYTES = 8


def start_of(adapter: str) -> State:
    """The hash before the first token, with the adapter of this digest; as long as START."""
    return blake2b(adapter.encode(), digest_size=len(START)).digest()


class SimCache:
    """Blocks 1 .. num_blocks; 0 is the null block. As a `BlockStore`, a wrong block changes all tokens after it."""

    def __init__(self, num_blocks: int, block_size: int, *, copy_s: float = 0.0, host_blocks: int = 0) -> None:
        """`copy_s`: seconds that copying one block out or in takes."""
        self.before: list[State] = [b""] * (num_blocks + 1)
        """The hash before a block's first slot."""
        self.after: list[list[State]] = [[b""] * block_size for _ in range(num_blocks + 1)]
        """The hash after each slot."""
        self.layout = f"sim block_size={block_size}"
        self.bytes_per_block = 1 + len(START) + STATE_BYTES * block_size
        """Length and bytes of the hash before, and the hashes after."""
        self._copy_s = copy_s
        self._host = [b""] * host_blocks

    def export(self, block: int) -> bytes:
        """The hashes of a block. Raises InvalidArgumentError when there is no such block."""
        self._copy(block)
        before = self.before[block]
        return bytes([len(before)]) + before.ljust(len(START), b"\0") + b"".join(self.after[block])

    def import_(self, block: int, content: bytes) -> None:
        """Put exported hashes into a block. Raises InvalidArgumentError when block or size is wrong."""
        self._copy(block)
        if len(content) != self.bytes_per_block:
            raise InvalidArgumentError("content", f"has {len(content)} bytes; a block has {self.bytes_per_block}")
        first = 1 + len(START)
        self.before[block] = content[1 : 1 + content[0]]
        self.after[block] = [content[i : i + STATE_BYTES] for i in range(first, len(content), STATE_BYTES)]

    def export_host(self, slot: int) -> bytes:
        """The hashes of the block that was copied to a slot."""
        return self._host[slot]

    def move(self, moves: Sequence[Move]) -> None:
        """Copy blocks to slots and back, one after the other."""
        for move in moves:
            if move.out:
                self._host[move.slot] = self.export(move.block)
            else:
                self.import_(move.block, self._host[move.slot])

    def _copy(self, block: int) -> None:
        if not 1 <= block < len(self.before):
            raise InvalidArgumentError("block", f"is {block}; the cache has the blocks 1 to {len(self.before) - 1}")
        if self._copy_s:
            time.sleep(self._copy_s)
