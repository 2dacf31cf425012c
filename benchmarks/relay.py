"""What a request and a streamed token cost in routers' processor time: ours, and others beside it in one run.

    python benchmarks/relay.py [--peers DIRECTORY] [--seconds 10] [--rounds 2]

DIRECTORY holds the programs `smg` and `vllm-router` (the bin of a virtual environment of its own, into which they were
installed by pip). Workers generate time only: ours `sim://`, which routers reach by gRPC; theirs `relay_backend.py`, by
HTTP. Two workers each. Counted is the processor time of the router's process and its children.

`requests`: 100 a second at random times, one token, not streamed, with bodies of 1 kB and of 8 kB (8,000 of our
tokens). Ours tokenizes them; the others look at most at their text. `streams`: 48 at a time, 100 tokens each, a token
every 20 ms; and 200 at a time, 400 tokens each, which is load enough for our router to have tokens joined.
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import aiohttp
import processes
import psutil
from rich.console import Console
from rich.table import Table

from argosy_api.resource import EngineSpec

DECODE_MS = 20
URI = f"sim://bench?prefill_tps=10000000&decode_ms={DECODE_MS}&kv_blocks=16384&max_model_len=65536"
ENGINE = EngineSpec(max_running=256, max_batch_tokens=65536)
RATE = 100.0
FEW, MANY = (48, 100), (200, 400)
"""Streams at a time, and tokens of each."""
BACKEND = Path(__file__).with_name("relay_backend.py")


class Router:
    """One that answers HTTP."""

    def __init__(self, name: str, port: int, pid: int) -> None:
        self.name, self.url = name, f"http://127.0.0.1:{port}"
        self._process = psutil.Process(pid)

    def cpu(self) -> float:
        every = [self._process, *self._process.children(recursive=True)]
        return float(sum(t.user + t.system for t in (p.cpu_times() for p in every)))


@contextlib.contextmanager
def program(command: Sequence[str], port: int) -> Iterator[int]:
    """Runs until its port answers `/health`; its process id."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        asyncio.run(_healthy(port, process))
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


async def _healthy(port: int, process: "subprocess.Popen[bytes]") -> None:
    async with aiohttp.ClientSession() as http:
        while True:
            if process.poll() is not None:
                raise RuntimeError(f"{process.args} ended")
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(f"http://127.0.0.1:{port}/health") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.1)


@contextlib.contextmanager
def ours() -> Iterator[Router]:
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(processes.worker(URI, ENGINE)) for _ in range(2)]
        router = stack.enter_context(processes.router(workers))
        yield Router("argosy", router.http_port, router.process.pid)


@contextlib.contextmanager
def theirs(name: str, folder: Path) -> Iterator[Router]:
    with contextlib.ExitStack() as stack:
        ports = [processes.free_port() for _ in range(2)]
        for port in ports:
            stack.enter_context(program([sys.executable, str(BACKEND), str(port), str(DECODE_MS)], port))
        port, urls = processes.free_port(), [f"http://127.0.0.1:{p}" for p in ports]
        more = ["launch"] if name == "smg" else []
        command = [str(folder / name), *more, "--worker-urls", *urls, "--policy", "cache_aware", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--prometheus-port", str(processes.free_port())]
        pid = stack.enter_context(program(command, port))
        yield Router(name, port, pid)


async def requests(http: aiohttp.ClientSession, router: Router, size: int, seconds: float) -> int:
    rng, tasks = random.Random(1), []

    async def one() -> None:
        text = f"{rng.random()} ".ljust(size, "x")
        async with http.post(f"{router.url}/v1/completions", json=_ask(text, 1)) as response:
            if response.status != 200:
                raise RuntimeError(await response.text())
            await response.read()

    due = time.perf_counter()
    end = due + seconds
    while due < end:
        due += rng.expovariate(RATE)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.ensure_future(one()))
    await asyncio.gather(*tasks)
    return len(tasks)


async def streams(http: aiohttp.ClientSession, router: Router, seconds: float, load: tuple[int, int] = FEW) -> int:
    end, tokens = time.perf_counter() + seconds, 0
    count, answer = load

    async def one(i: int) -> None:
        nonlocal tokens
        while time.perf_counter() < end:
            body = {**_ask(f"tell {i} me", answer), "stream": True}
            async with http.post(f"{router.url}/v1/completions", json=body) as response:
                raw = await response.read()
            if not raw.endswith(b"data: [DONE]\n\n"):
                raise RuntimeError(raw[-200:])
            tokens += answer

    await asyncio.gather(*(one(i) for i in range(count)))
    return tokens


async def _knows_the_model(http: aiohttp.ClientSession, router: Router) -> None:
    """Some are healthy before they have heard what their workers serve."""
    said = ""
    for _ in range(300):
        async with http.post(f"{router.url}/v1/completions", json=_ask("hello", 1)) as response:
            if response.status == 200:
                return
            said = await response.text()
        await asyncio.sleep(0.1)
    raise RuntimeError(f"{router.name}: {said}")


def _ask(text: str, count: int) -> dict[str, object]:
    return {"model": "bench", "prompt": text, "max_tokens": count, "ignore_eos": True, "temperature": 0}


async def measure(router: Router, seconds: float) -> list[float]:
    """Processor seconds for 1,000 requests of 1 kB, of 8 kB, and for a million tokens of few and of many streams."""
    found = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        works: list[Callable[[float], object]] = [
            lambda s: requests(http, router, 1_000, s),
            lambda s: requests(http, router, 8_000, s),
            lambda s: streams(http, router, s),
            lambda s: streams(http, router, s, MANY),
        ]
        await _knows_the_model(http, router)
        for work, unit in zip(works, (1e3, 1e3, 1e6, 1e6), strict=True):
            await work(2.0)  # type: ignore[misc]
            before = router.cpu()
            count = await work(seconds)  # type: ignore[misc]
            found.append(unit * (router.cpu() - before) / count)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    peers = [] if options.peers is None else [n for n in ("smg", "vllm-router") if (options.peers / n).exists()]
    found: dict[str, list[list[float]]] = {}
    for _ in range(options.rounds):  # in turn: what else the machine does falls on all of them
        for name in ("argosy", *peers):
            with ours() if name == "argosy" else theirs(name, options.peers) as router:
                found.setdefault(name, []).append(asyncio.run(measure(router, options.seconds)))
    least = {name: [min(column) for column in zip(*rows, strict=True)] for name, rows in found.items()}
    table = Table("router", "1,000 requests of 1 kB", "1,000 of 8 kB", "a million tokens, 48 streams", "200 streams")
    for name, row in least.items():
        cells = [f"{value:.2f} s" for value in row]
        if name != "argosy":
            cells = [f"{c} (ours {o / v:.1f} x)" for c, o, v in zip(cells, least["argosy"], row, strict=True)]
        table.add_row(name, *cells)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
