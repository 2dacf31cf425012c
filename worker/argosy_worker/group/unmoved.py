"""The blocks of a group's KV cache, for whoever wants to move them."""

from collections.abc import Sequence

from argosy_api.errors import InvalidArgumentError
from argosy_worker.core.batch import BlockStore
from argosy_worker.core.host import Move


class Unmoved:
    """The blocks of a group's cache: each rank has a part of them, so none of them can go to another worker."""

    layout = ""
    """Workers without a layout exchange no blocks."""

    def __init__(self, store: BlockStore) -> None:
        self.bytes_per_block = store.bytes_per_block

    def export(self, block: int) -> bytes:
        """Refused."""
        raise InvalidArgumentError("block", f"{block} is spread over the processes of a group")

    def export_host(self, slot: int) -> bytes:
        """Refused."""
        raise InvalidArgumentError("slot", f"{slot} is not there: a group has no host memory for blocks")

    def move(self, moves: Sequence[Move]) -> None:
        """Refuse; there are none to make."""
        if moves:
            raise RuntimeError("a group has no host memory for blocks")

    def import_(self, block: int, content: bytes) -> None:
        """Refused."""
        raise InvalidArgumentError("block", f"{block} of {len(content)} bytes cannot be spread over a group")
