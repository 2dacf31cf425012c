"""What a refusal costs: a tenant who has had all he may have goes on asking.

    python benchmarks/refusals.py [--seconds 15] [--rate 200]

One router, one simulated worker. Requests of a tenant whose requests per minute are used up come at random times over
HTTP, with bodies of 1 kB and of 1 MB, and over gRPC. Measured are the time until the refusal has come, and the router's
processor time for each. Another tenant's single streams go on meanwhile.
"""

import argparse
import asyncio
import contextlib
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import grpc
import processes
from rich.console import Console
from rich.table import Table
from tenants_clients import ENGINE, URI, Clients, channel_to, part

from argosy_api.access import new_key

Ask = Callable[[], Awaitable[bool]]


async def at_rate(ask: Ask, rate: float, seconds: float) -> list[float]:
    """Seconds that each took; all are refused."""
    rng, taken = random.Random(1), []

    async def one() -> None:
        begun = time.perf_counter()
        if not await ask():
            raise RuntimeError("was not refused")
        taken.append(time.perf_counter() - begun)

    due = time.perf_counter()
    end, tasks = due + seconds, []
    while due < end:
        due += rng.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.ensure_future(one()))
    await asyncio.gather(*tasks)
    return taken


async def measure(router: processes.Running, spent: str, other: str, rate: float, seconds: float) -> list[list[str]]:
    url = f"http://127.0.0.1:{router.http_port}/v1/completions"
    headers = {"authorization": f"Bearer {spent}", "content-type": "application/json"}
    rows = []
    async with channel_to(router) as channel, channel_to(router) as second, aiohttp.ClientSession() as http:
        grpc_client, usual = Clients(channel, spent), Clients(second, other, seed=2)

        def over_http(size: int) -> Ask:
            body = b'{"model":"bench","max_tokens":1,"prompt":"' + b"x" * size + b'"}'

            async def ask() -> bool:
                with contextlib.suppress(aiohttp.ClientConnectionError):  # refused while it was still being sent
                    async with http.post(url, data=body, headers=headers) as response:
                        await response.read()
                        return response.status == 429
                return True

            return ask

        async def over_grpc() -> bool:
            sample = await grpc_client.ask(answer=1)
            grpc_client.samples.clear()
            return sample.code == grpc.StatusCode.RESOURCE_EXHAUSTED.name

        while not await over_grpc():  # until it has had what it may have
            pass
        kinds = [
            ("HTTP, 1 kB", over_http(1000), rate),
            ("HTTP, 1 MB", over_http(1_000_000), rate / 10),
            ("gRPC", over_grpc, rate),
        ]
        for name, ask, pace in kinds:
            await at_rate(ask, pace, 2)
            stream = asyncio.ensure_future(usual.again_and_again(1, seconds))
            before = router.cpu_seconds
            taken = await at_rate(ask, pace, seconds)
            used = router.cpu_seconds - before
            await stream
            times = " / ".join(f"{1e3 * part(taken, share):.2f}" for share in (0.5, 0.99, 1.0))
            rows.append([name, f"{pace:g}", str(len(taken)), times, f"{1e6 * used / len(taken):.0f}"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rate", type=float, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, processes.worker(URI, ENGINE) as worker:
        document, directory = Path(folder) / "access.yaml", Path(folder) / "keys"
        document.write_text("required: true\ntenants: {spent: {requestsPerMinute: 0.1}}\n")
        directory.mkdir()
        made = []
        for tenant in ("spent", "other"):
            key, key_id, entry = new_key(tenant)
            (directory / key_id).write_text(entry.to_json())
            made.append(key)
        with processes.router([worker], options=[f"--access={document}", f"--api-keys={directory}"]) as router:
            rows = asyncio.run(measure(router, *made, options.rate, options.seconds))
    table = Table("", "requests a second", "refused", "after p50 / p99 / longest, ms", "router's us each")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
