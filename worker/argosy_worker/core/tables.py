"""The block tables of running requests: what an admission takes, how a table grows, what it lets go.

Where a row reads all positions before it, a request has the blocks of all its known tokens from its admission on. Where
every layer sees a window, it never needs more of them than the window and the rows of one step: with so many it is
admitted, however long its prompt, and what the window has passed makes room for what lies ahead.

Blocks that others use, too, make no room when they are passed. So a prompt may have to wait for blocks in the midst;
of those who share blocks the hindmost gets them back, so somebody always goes on, or the scheduler makes him
(`stuck`).
"""

from collections.abc import Collection, Iterable

from argosy_api.blocks import BlockId
from argosy_api.errors import InvalidArgumentError
from argosy_worker.core.blocks import NULL_BLOCK, BlockPool
from argosy_worker.core.request import Request


def check_fits(request: Request, *, total: int, window_blocks: int | None) -> None:
    """Refuse a request that could never be computed, even alone, with `total` blocks.

    Raises:
        InvalidArgumentError: naming `prompt` when it alone is too long, else `max_tokens`.

    """
    if request.most_blocks <= total or (window_blocks is not None and window_blocks < total):
        return
    prompt, room = len(request.prompt), total * request.block_size
    if prompt > room:
        raise InvalidArgumentError("prompt", f"has {prompt} tokens; the KV cache of this worker holds {room}")
    raise InvalidArgumentError(
        "max_tokens",
        f"must be at most {room - prompt + 1} with a prompt of {prompt} tokens: the KV cache of this worker holds "
        f"{room}",
    )


class Tables:
    """Owned by the thread that owns the pool."""

    def __init__(self, pool: BlockPool, *, step_tokens: int) -> None:
        """`step_tokens`: what a step computes at most."""
        self._pool = pool
        self._step_tokens = step_tokens

    def begin(self, request: Request, *, slack: int) -> bool:
        """Give a request its first blocks, those that hold its beginning already among them.

        False where `slack` blocks would not be left.
        """
        pool = self._pool
        hits = pool.match(request.ids, request.usable_blocks)
        missing = request.blocks_wanted - len(hits)
        if pool.window_blocks is not None:
            held = len(hits) - hits.count(NULL_BLOCK)  # those may be others', too, and never be given back to it
            missing = min(missing, pool.window_blocks + self._of_step(request), pool.total - held)
        if missing + slack > pool.available - pool.evictable(hits):
            return False
        hits = pool.acquire(hits, request.ids)
        request.begin(hits, pool.allocate(missing))
        return True

    def grow(self, request: Request) -> None:
        """Let a prompt's table reach as far as the next step might, or as there are blocks."""
        if self._pool.window_blocks is not None and not request.decoding:
            reach = min(request.blocks_wanted, request.scheduled // request.block_size + self._of_step(request))
            missing = max(0, min(reach - len(request.table), self._pool.available))
            request.table += tuple(self._pool.allocate(missing))

    def store(self, request: Request) -> list[BlockId]:
        """Tell the pool which full blocks a request has computed; returns their ids."""
        begin = request.stored
        if self._pool.caching:
            request.stored = max(begin, request.computed // request.block_size)
        new = request.ids[begin : request.stored]
        for block, block_id in zip(request.table[begin : request.stored], new, strict=True):
            self._pool.store(block, block_id)
        return new

    def let_go(self, request: Request) -> None:
        """Give up the blocks that no row to come reads."""
        if self._pool.window_blocks is not None:
            self._pool.release(request.let_go(self._pool.window_blocks))

    def go_on(self, running: Iterable[Request]) -> None:
        """Before anybody else takes blocks, give those who let some go others for them, that lie ahead."""
        if self._pool.window_blocks is not None:
            for request in running:
                self.grow(request)

    def stuck(self, running: Collection[Request]) -> bool:
        """Whether none of them has a block for another row, and there is none to be had."""
        return bool(running) and not self._pool.available and not any(request.ready for request in running)

    def _of_step(self, request: Request) -> int:
        """Blocks that the rows of a step lie in, at most."""
        return 1 - (-self._step_tokens // request.block_size)
