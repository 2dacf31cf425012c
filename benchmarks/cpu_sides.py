"""The sides of `cpu.py`: our engine, our router and worker, and peers on the same file, in processes of their own."""

import asyncio
import contextlib
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import processes
from cpu_seen import Ask, Prompts, Seen, Side, seen

from argosy_api.resource import EngineSpec, SpeculativeSpec

CONTEXT = 2200
"""Tokens that a request of llama.cpp's server may have."""
NAME = "bench"


@contextlib.contextmanager
def served(uri: str, threads: int) -> Iterator[Side]:
    """Our router and worker, over HTTP. Nobody guesses ahead: random prompts make answers that repeat themselves."""
    engine = EngineSpec(threads=threads, speculative=SpeculativeSpec(method="off"))
    with processes.worker(uri, engine) as worker, processes.router([worker]) as router:
        more = {"model": NAME, "ignore_eos": True}
        ask = _streams(router.http_port, "/v1/completions", "max_tokens", more)
        yield Side(ask, (worker.process.pid, router.process.pid))


@contextlib.contextmanager
def library(name: str, path: str, threads: int, *more: str) -> Iterator[Side]:
    """What `cpu_peers.py` runs under this name, asked without a server between."""
    with _process(name, path, str(threads), *more) as process:

        async def ask(prompts: Prompts, new: int) -> Seen:
            found = await asyncio.to_thread(_ask, process, {"prompts": prompts, "new": new})
            if any(len(times) != new for times in found["times"]):
                raise RuntimeError(f"{name}: {[len(times) for times in found['times']]} tokens instead of {new}")
            return seen(found["times"], new)

        async def score(texts: Prompts) -> list[float]:
            found = await asyncio.to_thread(_ask, process, {"score": texts})
            return list(found["logprobs"])

        yield Side(ask, (process.pid,), score)


@contextlib.contextmanager
def llama_server(
    path: str, threads: int, streams: int, server: str | None, *, sharing: bool = False
) -> Iterator[tuple[Side, Side]]:
    """llama.cpp's server: what it says of itself, and what a client sees. Without `server`, xllamacpp's is run.

    `sharing`: it may keep what prompts have in common.
    """
    port, context = processes.free_port(), streams * CONTEXT
    with contextlib.ExitStack() as stack:
        if server is None:
            arguments = ("llama.cpp", path, str(threads), str(streams), str(context), str(port))
            pid = stack.enter_context(_process(*arguments)).pid
        else:
            options = {"-m": path, "-t": threads, "-tb": threads, "-np": streams, "-c": context, "--port": port}
            pid = stack.enter_context(_program(server, options, port)).pid
        more = {"temperature": 0, "ignore_eos": True, "cache_prompt": sharing}
        inside = Side(_told(port, more), (pid,), _forced(port))
        yield inside, Side(_streams(port, "/completion", "n_predict", more), (pid,))


@contextlib.contextmanager
def _program(server: str, options: dict[str, object], port: int) -> Iterator[subprocess.Popen[bytes]]:
    program = subprocess.Popen(
        [server, *(str(word) for pair in options.items() for word in pair)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until = time.monotonic() + 120
        while not _healthy(f"http://127.0.0.1:{port}/health"):
            if program.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{server} does not serve")
            time.sleep(0.02)
        yield program
    finally:
        program.kill()
        program.wait()


def _healthy(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.HTTPError:
        return False


def _streams(port: int, path: str, count: str, more: dict[str, Any]) -> Ask:
    """Events over HTTP, read with as little work as can be: the client takes of the same processors."""

    async def one(prompt: list[int], new: int, begun: float) -> list[float]:
        body = json.dumps({"prompt": prompt, count: new, "stream": True, "temperature": 0, **more}).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        try:
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            status = await reader.readline()
            if b" 200 " not in status:
                raise RuntimeError(f"{status!r} {await reader.read(2000)!r}")
            return [time.perf_counter() - begun async for line in reader if line.startswith(b"data: {")]
        finally:
            writer.close()

    async def ask(prompts: Prompts, new: int) -> Seen:
        begun = time.perf_counter()
        return seen(await asyncio.gather(*(one(prompt, new, begun) for prompt in prompts)), new)

    return ask


def _told(port: int, more: dict[str, Any]) -> Ask:
    """Whole answers of llama.cpp's server, with the times that it tells of its own steps."""

    async def ask(prompts: Prompts, new: int) -> Seen:
        async with _client() as client:
            begun = time.perf_counter()

            async def one(prompt: list[int]) -> tuple[float, float]:
                answer = await client.post(
                    f"http://127.0.0.1:{port}/completion", json={"prompt": prompt, "n_predict": new, **more}
                )
                end, timings = time.perf_counter() - begun, answer.raise_for_status().json()["timings"]
                if timings["predicted_n"] != new:
                    raise RuntimeError(f"llama.cpp: {timings} instead of {new} tokens")
                return end - timings["predicted_ms"] / 1e3, end

            both = await asyncio.gather(*map(one, prompts))
            return Seen(len(prompts) * new, [first for first, _ in both], max(end for _, end in both))

    return ask


def _forced(port: int) -> Any:
    """Each token is asked for after all before it, and forced by a bias; what is told is of the raw logits."""

    async def score(texts: Prompts) -> list[float]:
        found: list[float] = []
        async with _client() as client:
            for text in texts:
                for at in range(1, len(text)):
                    body = {"prompt": text[:at], "n_predict": 1, "temperature": 0, "n_probs": 1, "cache_prompt": True}
                    body |= {"logit_bias": [[text[at], 1e6]], "id_slot": 0}
                    answer = await client.post(f"http://127.0.0.1:{port}/completion", json=body)
                    told = answer.raise_for_status().json().get("completion_probabilities", [])
                    if [one["id"] for one in told] not in ([text[at]], []):
                        raise RuntimeError(f"llama.cpp: {told} instead of {text[at]}")
                    found.append(told[0]["logprob"] if told else math.nan)
        return found

    return score


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=64))


@contextlib.contextmanager
def _process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("cpu_peers.py")), *arguments], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        _line(process)
        yield process
    finally:
        process.kill()
        process.wait()


def _ask(process: subprocess.Popen[str], request: dict[str, object]) -> dict[str, Any]:
    if process.stdin is None:
        raise RuntimeError("a peer without its input")
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    return _line(process)


def _line(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line of JSON; the libraries print lines of their own between."""
    for line in process.stdout or ():
        if line.startswith("{"):
            return dict(json.loads(line))
    raise RuntimeError(f"the peer ended with {process.wait()}")
