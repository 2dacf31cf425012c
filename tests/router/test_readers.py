"""Clients that read nothing beside clients that do: what each of them may hold, and that nobody else is held up.

How long normal clients wait beside a hundred of them is `benchmarks/readers.py`.
"""

import asyncio
import fcntl
import sys

from router_kit import answer_of, decode, encode, events_of, quiet_client
from waiting import eventually

from argosy_api import limits
from argosy_router.fronts import exchange

SLACK = 64 * 1024 + 2048
"""aiohttp asks once in so many bytes whether there is room for more, and Linux once for each piece it takes."""
UNSENT = 0x894B
"""Linux' SIOCOUTQNSD: bytes of a socket that were not sent yet."""
LONG = {"model": "m", "prompt": "a", "max_tokens": 3000, "stream": True}
SHORT = {"model": "m", "prompt": "hello", "max_tokens": 200, "stream": True}
CLIENTS = 10


def stuck(rig) -> list[int]:
    """For each client that takes nothing, the bytes that wait for it."""
    waiting = [guard.transport.get_write_buffer_size() for guard in rig.router.connections._guards.values()]
    return [size for size in waiting if size]


def unsent(rig) -> list[int]:
    """What the system holds for each client, and could not send."""
    sockets = [guard.transport.get_extra_info("socket") for guard in rig.router.connections._guards.values()]
    return [int.from_bytes(fcntl.ioctl(s, UNSENT, bytes(4)), sys.byteorder) for s in sockets]


async def test_who_never_reads_holds_little_and_nobody_up(rig, monkeypatch):
    monkeypatch.setattr(exchange, "WRITE_S", 600)  # else they are given up
    for worker in rig.workers:
        worker.script.hang_accepted = True
    dead = [await quiet_client(rig, LONG) for _ in range(CLIENTS)]
    await eventually(lambda: sum(len(w.requests) for w in rig.workers) == CLIENTS)
    for worker in rig.workers:
        worker.script.hang_accepted = False
        worker.script.release.set()
    # the system takes no megabytes of what nobody reads
    await eventually(lambda: len(stuck(rig)) == CLIENTS, what="all are stuck")
    generated = sum(w.running for w in rig.workers)
    whole = decode(answer_of(encode("hello"), 200))
    for _ in range(3):
        answers = await asyncio.gather(*(rig.post("/v1/completions", SHORT) for _ in range(CLIENTS)))
        for response, body in answers:
            assert response.status == 200
            assert "".join(e["choices"][0]["text"] for e in events_of(body)) == whole
    assert len(stuck(rig)) == CLIENTS, "none of them was given up for the sake of the others"
    assert max(stuck(rig)) <= limits.MAX_UNSENT_BYTES + SLACK
    assert 0 < max(unsent(rig)) <= limits.MAX_UNSENT_BYTES + SLACK
    assert sum(w.running for w in rig.workers) == generated, "nothing of the normal ones is left"
    for client in dead:
        client.close()
    await eventually(lambda: rig.idle() and not stuck(rig) and rig.router.service.admission.held == 0)
    await eventually(lambda: rig.router.service.running == 0 and not any(w.running for w in rig.workers))
