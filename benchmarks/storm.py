"""A storm of the worst allowed requests beside 20 normal streams, through one router.

    python benchmarks/storm.py [--seconds 60]

Two simulated models behind one router: the normal streams ask one, the storm the other, so that what the streams feel
is the router and not a full worker. First the streams run alone, then beside the storm, in one run: prompts of 1 MB, 20
log-probabilities, 512 choices, unknown keys of 1 MB, a million token ids, ten megabytes of empty arrays, slow senders,
slow readers, and clients that leave. Then the storm ends and the router is looked at until it has nothing left of it.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import processes
import psutil
from rich.console import Console
from rich.table import Table

STREAMS = 20
ALONE_S = 10.0
SETTLE_S = 90.0
"""Slow readers are given up after 30 s; then nothing may be left."""
CALM = "sim://calm?decode_ms=20&prefill_tps=100000"
STORMY = "sim://stormy?decode_ms=20&prefill_tps=1000000&max_model_len=65536&kv_blocks=100000"


class Streams:
    """Normal clients: each asks for a streamed answer of 200 tokens again and again."""

    def __init__(self, base: str) -> None:
        self._base = base
        self.gaps: list[float] = []
        self.failures: list[str] = []

    async def run(self, seconds: float) -> tuple[float, float]:
        """Median and 99th percentile of the time between two events of a stream, in ms."""
        self.gaps.clear()
        async with aiohttp.ClientSession() as session:
            end = time.monotonic() + seconds
            await asyncio.gather(*(self._one(session, i, end) for i in range(STREAMS)))
        gaps = sorted(self.gaps)
        return 1e3 * gaps[len(gaps) // 2], 1e3 * gaps[int(len(gaps) * 0.99)]

    async def _one(self, session: aiohttp.ClientSession, i: int, end: float) -> None:
        rng = random.Random(i)
        await asyncio.sleep(rng.random())
        while time.monotonic() < end:
            words = " ".join(rng.choice(["lorem", "ipsum", "dolor", "sit", "amet"]) for _ in range(40))
            body = {"model": "calm", "prompt": words, "max_tokens": 200, "ignore_eos": True, "stream": True}
            async with session.post(self._base + "/v1/completions", json=body) as answer:
                if answer.status != 200:
                    self.failures.append((await answer.text())[:200])
                    continue
                last = 0.0
                async for line in answer.content:
                    if line.startswith(b"data: {"):
                        now = time.monotonic()
                        if last:
                            self.gaps.append(now - last)
                        last = now


# --- the storm, in a process of its own

Attack = Callable[[aiohttp.ClientSession, str], Awaitable[None]]


def body(**fields: object) -> bytes:
    return json.dumps({"model": "stormy", "max_tokens": 1, "temperature": 0, **fields}).encode()


def posting(raw: bytes, path: str = "/v1/completions") -> Attack:
    async def attack(session: aiohttp.ClientSession, base: str) -> None:
        async with session.post(base + path, data=raw) as answer:
            async for _ in answer.content.iter_chunked(1 << 20):
                pass

    return attack


async def slow_sender(_: aiohttp.ClientSession, base: str) -> None:
    """Announces ten megabytes, and sends a byte now and then."""
    host, port = base.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 10000000\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        for _ in range(40):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.5)
    writer.close()


async def slow_head(_: aiohttp.ClientSession, base: str) -> None:
    """Never finishes the head of its request."""
    host, port = base.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    with contextlib.suppress(ConnectionError):
        for byte in itertools.islice(itertools.cycle(b"GET /health HTTP/1.1"), 60):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.5)
    writer.close()


async def slow_reader(_: aiohttp.ClientSession, base: str) -> None:
    """Asks for a long stream of many choices and reads nothing of it."""
    host, port = base.removeprefix("http://").split(":")
    raw = body(prompt="a", n=8, max_tokens=20_000, ignore_eos=True, stream=True)
    quiet = socket.socket()
    quiet.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    quiet.setblocking(False)
    await asyncio.get_running_loop().sock_connect(quiet, (host, int(port)))
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n\r\n".encode()
    await asyncio.get_running_loop().sock_sendall(quiet, head + raw)
    await asyncio.sleep(20)
    quiet.close()


async def leaver(session: aiohttp.ClientSession, base: str) -> None:
    """Leaves after its first bytes."""
    raw = body(prompt="b" * 2000, n=8, max_tokens=5000, ignore_eos=True, stream=True)
    async with session.post(base + "/v1/completions", data=raw) as answer:
        await answer.content.readany()


def attacks() -> list[tuple[Attack, int, float]]:
    """(attack, clients that make it side by side, seconds between two of one client's)."""
    text = "lorem ipsum dolor sit amet " * 40_000
    chat = json.dumps({"model": "stormy", "max_tokens": 1,
                       "messages": [{"role": "user", "content": "x" * 2000}] * 2048}).encode()  # fmt: skip
    return [
        (posting(body(prompt=text)), 2, 0.2),
        (posting(body(prompt="x" * 3000, prompt_logprobs=20, stream=False)), 1, 0.2),
        (posting(body(prompt="x" * 3000, prompt_logprobs=20, stream=True)), 1, 0.2),
        (posting(body(prompt="x" * 8, max_tokens=300, logprobs=20, n=8, ignore_eos=True)), 1, 0.2),
        (posting(body(prompt=["y" * 100] * 64, n=8, max_tokens=4, stream=True)), 1, 0.5),
        (posting(body(prompt="a", **{"z" * 1_000_000: 1})), 1, 0.2),
        (posting(body(prompt=[5] * 1_000_000)), 1, 0.5),
        (posting(b'{"model": "stormy", "prompt": [' + b"[]," * 3_000_000 + b"[]]}"), 1, 1.0),
        (posting(chat, "/v1/chat/completions"), 1, 0.5),
        (slow_sender, 50, 0.1),
        (slow_head, 50, 0.1),
        (slow_reader, 10, 0.5),
        (leaver, 4, 0.1),
    ]


async def storm(base: str, seconds: float) -> None:
    """All attacks until the time is up; prints how many requests were made."""
    os.nice(10)  # the storm shall cost the router's processor time, not that of who makes it
    count = 0

    async def client(session: aiohttp.ClientSession, attack: Attack, pause: float) -> None:
        nonlocal count
        while True:
            with contextlib.suppress(aiohttp.ClientError, ConnectionError, TimeoutError, asyncio.IncompleteReadError):
                await attack(session, base)
            count += 1
            await asyncio.sleep(pause)

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=120)) as session:
        tasks = [
            asyncio.create_task(client(session, attack, pause)) for attack, n, pause in attacks() for _ in range(n)
        ]
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    print(count)


# --- the measurement


class Memory:
    """The most that a process and its children had resident, looked at four times a second. Bytes."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.own = self.all = 0

    async def watch(self) -> None:
        while True:
            own = self._process.memory_info().rss
            children = 0
            for child in self._process.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    children += child.memory_info().rss
            self.own, self.all = max(self.own, own), max(self.all, own + children)
            await asyncio.sleep(0.25)


@contextlib.asynccontextmanager
async def watched(memory: Memory) -> AsyncIterator[None]:
    task = asyncio.create_task(memory.watch())
    try:
        yield
    finally:
        task.cancel()


async def gauge(metrics: str, name: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(metrics) as answer:
        found = re.search(rf"^{name} (\S+)$", await answer.text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"the router has no {name}")
    return int(float(found[1]))


async def measure(router: processes.Running, seconds: float) -> dict[str, tuple[float, str, bool]]:
    """Figure -> value, what is wanted, whether it is reached."""
    base, metrics = f"http://127.0.0.1:{router.http_port}", f"http://127.0.0.1:{router.metrics_port}/metrics"
    streams, memory = Streams(base), Memory(router.process.pid)
    await streams.run(2.0)  # connects, warms up
    await asyncio.sleep(2.0)
    tasks = await gauge(metrics, "argosy_router_tasks")
    alone = await streams.run(ALONE_S)
    async with watched(memory):
        arguments = [sys.executable, str(Path(__file__)), "--storm", base, "--seconds", str(seconds)]
        attacker = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        beside = await streams.run(seconds)
        made, _ = await asyncio.to_thread(attacker.communicate)
    end = time.monotonic() + SETTLE_S
    while (left := await gauge(metrics, "argosy_router_tasks") - tasks) > 0 and time.monotonic() < end:
        await asyncio.sleep(1.0)
    held = await gauge(metrics, "argosy_router_held_bytes")
    for failure in streams.failures[:5]:
        print("a normal request failed:", failure)
    return {
        "normal ITL p50 alone, ms": (alone[0], "", True),
        "normal ITL p99 alone, ms": (alone[1], "", True),
        "normal ITL p50 beside the storm, ms": (beside[0], "", True),
        "normal ITL p99 beside the storm, ms": (beside[1], "<= 1.5 x alone", beside[1] <= 1.5 * alone[1]),
        "normal requests that failed": (len(streams.failures), "0", not streams.failures),
        "router resident at most, MB": (memory.own / 1e6, "", True),
        "with its child processes, MB": (memory.all / 1e6, "<= 500", memory.all <= 500e6),
        "requests of the storm": (float(made or 0), "", True),
        "tasks left behind": (max(0, left), "0", left <= 0),
        "bytes left behind": (held, "0", held == 0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--storm", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.storm:
        asyncio.run(storm(options.storm, options.seconds))
        return
    with (
        processes.worker(CALM, name="calm") as calm,
        processes.worker(STORMY, name="stormy") as stormy,
        processes.router([calm], others={"stormy": [stormy]}, name="calm") as router,
    ):
        figures = asyncio.run(measure(router, options.seconds))
    table = Table("figure", "value", "wanted", "")
    for name, (value, wanted, reached) in figures.items():
        table.add_row(name, f"{value:.1f}", wanted, ("reached" if reached else "NOT REACHED") if wanted else "")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
