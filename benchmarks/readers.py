"""Clients that read nothing beside clients that do, at one router: does anybody notice?

    python benchmarks/readers.py [--seconds 15] [--clients 100]

A hundred normal clients stream answers of a simulated model again and again; first alone, then beside as many that ask
for long streams and read nothing of them. Those ask another model, so that what is felt is the router. Looked at: the
time between two tokens of normal clients, the router's memory, what it has left when all are gone, and what processor
time router and workers take: all share one machine. A client that takes nothing for 30 s is given up, so `--seconds`
is to end before that.
"""

import argparse
import asyncio
import contextlib
import json
import socket
import sys
import time
from collections.abc import Iterator, Sequence

import aiohttp
import processes
from rich.console import Console
from rich.table import Table
from storm import CALM, STORMY, gauge

from argosy_api.resource import EngineSpec

SETTLE_S = 60.0
LOOK_S = 1.5
"""The router's gauges are up to a second old."""
FILL_S = 10.0
"""Until nothing more can be sent to who reads nothing."""
SMALL = 4096
ALL_AT_ONCE = EngineSpec(max_running=1024, max_batch_tokens=2048)
"""No client waits for its worker: those who read nothing are to have answers that nobody reads."""


async def normal(session: aiohttp.ClientSession, base: str, end: float, gaps: list[float], failures: list[str]) -> None:
    body = {"model": "calm", "prompt": "lorem ipsum dolor", "max_tokens": 100, "ignore_eos": True, "stream": True}
    while time.monotonic() < end:
        async with session.post(base + "/v1/completions", json=body) as answer:
            if answer.status != 200:
                failures.append((await answer.text())[:200])
                return
            last = 0.0
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    now = time.monotonic()
                    if last:
                        gaps.append(now - last)
                    last = now


async def stream(base: str, clients: int, seconds: float) -> tuple[list[float], list[str]]:
    """Sorted times between two events, and what failed."""
    gaps, failures, end = list[float](), list[str](), time.monotonic() + seconds
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(normal(session, base, end, gaps, failures) for _ in range(clients)))
    return sorted(gaps), failures


async def never_reads(base: str, leave: asyncio.Event) -> None:
    host, port = base.removeprefix("http://").split(":")
    body = {"model": "stormy", "prompt": "a", "max_tokens": 20_000, "ignore_eos": True, "stream": True}
    raw = json.dumps({**body, "logprobs": 5}).encode()  # with many bytes to a token, so that they are soon stuck
    quiet = socket.socket()
    quiet.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
    quiet.setblocking(False)
    await asyncio.get_running_loop().sock_connect(quiet, (host, int(port)))
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n\r\n".encode()
    await asyncio.get_running_loop().sock_sendall(quiet, head + raw)
    with contextlib.closing(quiet):
        await leave.wait()


@contextlib.contextmanager
def busy(who: Sequence[processes.Running], cores: list[float]) -> Iterator[None]:
    """Appends how many cores each of these kept busy meanwhile."""
    began, before = time.monotonic(), [one.cpu_seconds for one in who]
    yield
    cores += [(one.cpu_seconds - b) / (time.monotonic() - began) for one, b in zip(who, before, strict=True)]


async def measure(
    router: processes.Running, workers: Sequence[processes.Running], clients: int, seconds: float
) -> list[tuple[str, str, str, bool]]:
    """Rows of the table. `workers`: of the normal clients, and of those who read nothing."""
    base, metrics = f"http://127.0.0.1:{router.http_port}", f"http://127.0.0.1:{router.metrics_port}/metrics"
    await stream(base, clients, 5.0)
    async with aiohttp.ClientSession() as session:  # the router keeps a stream to each worker it has asked
        first = {"model": "stormy", "prompt": "a", "max_tokens": 1}
        async with session.post(base + "/v1/completions", json=first) as answer:
            await answer.read()
    await asyncio.sleep(LOOK_S)
    tasks, memory = await gauge(metrics, "argosy_router_tasks"), router.resident_bytes
    everyone, cores_alone, cores_beside = [router, *workers], list[float](), list[float]()
    with busy(everyone, cores_alone):
        alone, failed_alone = await stream(base, clients, seconds)
    leave = asyncio.Event()
    dead = [asyncio.create_task(never_reads(base, leave)) for _ in range(clients)]
    await asyncio.sleep(FILL_S)
    with busy(everyone, cores_beside):
        beside, failed = await stream(base, clients, seconds)
    stayed = router.metrics().get('argosy_router_requests_in_flight{model="stormy"}', 0.0)
    grown = router.resident_bytes - memory
    leave.set()
    await asyncio.gather(*dead)
    end = time.monotonic() + SETTLE_S
    while time.monotonic() < end:
        left = await gauge(metrics, "argosy_router_tasks") - tasks
        held = await gauge(metrics, "argosy_router_held_bytes")
        if left <= 0 and held == 0:
            break
        await asyncio.sleep(0.5)
    p99 = [1e3 * g[int(0.99 * len(g))] for g in (alone, beside)]
    p50 = [1e3 * g[len(g) // 2] for g in (alone, beside)]
    cores = zip(("router", "worker", "worker of who reads nothing"), cores_alone, cores_beside, strict=True)
    tail = f"{p99[0]:.1f} / {p99[1]:.1f}"
    return [
        ("normal clients, tokens read alone / beside", f"{len(alone)} / {len(beside)}", "", True),
        ("time between tokens p50, alone / beside, ms", f"{p50[0]:.1f} / {p50[1]:.1f}", "", True),
        ("time between tokens p99, alone / beside, ms", tail, "<= 1.2 x", p99[1] <= 1.2 * p99[0]),
        ("answers that nobody reads, still under way", f"{stayed:.0f}", f"{clients}", stayed == clients),
        *((f"cores busy, alone / beside: {who}", f"{a:.2f} / {b:.2f}", "", True) for who, a, b in cores),
        ("normal clients that failed", f"{len(failed_alone) + len(failed)}", "0", not failed_alone and not failed),
        ("router grown by, MB", f"{grown / 1e6:.1f}", "<= 32", grown <= 32e6),
        ("tasks, bytes left", f"{max(0, left)}, {held}", "0, 0", left <= 0 and held == 0),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--clients", type=int, default=100)
    options = parser.parse_args()
    with (
        processes.worker(CALM, ALL_AT_ONCE, name="calm") as calm,
        processes.worker(STORMY, ALL_AT_ONCE, name="stormy") as stormy,
        processes.router([calm], others={"stormy": [stormy]}, name="calm") as router,
    ):
        rows = asyncio.run(measure(router, [calm, stormy], options.clients, options.seconds))
    table = Table("", "measured", "wanted", "")
    for name, value, wanted, holds in rows:
        table.add_row(name, value, wanted, "" if not wanted else "holds" if holds else "FAILS")
    Console(width=120).print(table)
    if not all(row[3] for row in rows):
        sys.exit("not all of it holds")


if __name__ == "__main__":
    main()
