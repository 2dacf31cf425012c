"""Replay of a trace through a real router onto `sim://` workers: hit rate and time to first token, for each policy.

    python benchmarks/routing.py TRACE [--pace 5] [--workers 8] [--policies kvAware prefixHash] [--requests N]

TRACE: FAST25-release/traces/synthetic_trace.jsonl of github.com/kvcache-ai/Mooncake (Apache-2.0; `.gz` is read too).
One token stands for 64 of the trace, a block of 8 tokens for one of 512; each worker computes 625 prompt tokens per
second (40,000 of the trace's) in steps of at most 32, and has 2,500 blocks. A request asks for one token: what is
measured is prefill, queueing and routing. Beside each replay stands its simulation (`routing_model.py`).

A figure is the product's only where the machine kept pace: every worker at 97 % of its nominal rate or more, and the
requests sent on time. Both are printed, with the processor time of every process.
"""

import argparse
import asyncio
import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
import processes
import routing_model as model
import routing_trace as traces
from rich.console import Console
from rich.table import Table

from argosy_api import metric_names as names
from argosy_api.membership import RoutingPolicy
from argosy_api.resource import EngineSpec
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc

RATE = 625.0
BLOCKS = 2500
STEP = 32
KEPT_PACE = 0.97
LATE_S = 0.010
SETTLE_S = 2.0
STRETCH_S = 1.0
COUNTERS = tuple(
    f"{name}_total{{" for name in (names.ROUTER_DECISIONS, names.ROUTER_RETRIES, names.ROUTER_INDEX_REPAIRS)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One replay on this machine."""

    outcomes: list[model.Outcome]
    failed: int
    late_p99: float
    """How late requests were sent, in seconds."""
    pace: list[float]
    """Tokens per second of each worker in its busy stretches, as a share of the nominal rate."""
    cpu: dict[str, float]
    """Share of a core, for router, workers (sum) and client."""
    counted: dict[str, float]
    """The router's counters of decisions, retries and repairs of the index."""


async def replay(asks: list[model.Ask], workers: int, policy: RoutingPolicy, *, redis: bool, order: str) -> Replayed:
    """Start everything, send each request at its time, end everything."""
    # a block of the address has 16 tokens, whatever the engine's block size
    uri = f"sim://bench?prefill_tps={RATE:g}&decode_ms=0&kv_blocks={BLOCKS * traces.BLOCK // 16}&max_model_len=8192"
    engine = EngineSpec(block_size=traces.BLOCK, max_batch_tokens=STEP, max_running=STEP, queue_order=order)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(processes.valkey()) if redis else ""
        fleet = [stack.enter_context(processes.worker(uri, engine, redis_url=url)) for _ in range(workers)]
        router = stack.enter_context(processes.router(fleet, policy=policy, redis_url=url))
        await asyncio.sleep(SETTLE_S)
        everything = {"router": [router], "workers": fleet}
        before = {name: sum(p.cpu_seconds for p in group) for name, group in everything.items()}
        mine, begun = time.process_time(), time.perf_counter()
        outcomes, lateness = await _send_all(asks, router.port)
        lasted = time.perf_counter() - begun
        cpu = {name: (sum(p.cpu_seconds for p in group) - before[name]) / lasted for name, group in everything.items()}
        cpu["client"] = (time.process_time() - mine) / lasted
        counted = {name: value for name, value in router.metrics().items() if name.startswith(COUNTERS)}
    answered = [o for o in outcomes if o is not None]
    pace = [p for w in {o.worker for o in answered} if (p := _pace([o for o in answered if o.worker == w]))]
    late = traces.percentile(lateness, 0.99)
    return Replayed(
        outcomes=answered, failed=len(outcomes) - len(answered), late_p99=late, pace=pace, cpu=cpu, counted=counted
    )


async def _send_all(asks: list[model.Ask], port: int) -> tuple[list[model.Outcome | None], list[float]]:
    lateness: list[float] = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = rpc.InferenceStub(channel)
        sampling = pb.SamplingParams(max_tokens=1, temperature=0, ignore_eos=True)
        begun = time.perf_counter() + 0.5

        async def one(ask: model.Ask) -> model.Outcome | None:
            request = pb.InferenceRequest(model="bench", tokens=pb.TokenIds(ids=ask.tokens), sampling=sampling)
            sent = time.perf_counter()
            lateness.append(sent - begun - ask.at)
            call = stub.Generate(request)
            try:
                worker = dict(await call.initial_metadata()).get("x-argosy-worker", "")
                async for chunk in call:
                    if chunk.token_ids:
                        return model.Outcome(
                            time.perf_counter() - begun - ask.at,
                            chunk.usage.cached_tokens,
                            len(ask.tokens),
                            str(worker),
                            ask.at,
                        )
            except grpc.aio.AioRpcError as error:
                print(f"failed: {error.code().name}: {error.details()}")
            return None

        tasks = []
        for ask in asks:
            await asyncio.sleep(max(0.0, begun + ask.at - time.perf_counter()))
            tasks.append(asyncio.create_task(one(ask)))
        return list(await asyncio.gather(*tasks)), lateness


def _pace(outcomes: list[model.Outcome]) -> float:
    """A worker's tokens per second while it had work for STRETCH_S and longer, as a share of the nominal rate.

    By what clients saw: everything that keeps a worker from its next step counts. 0: it never had so much work.
    """
    seconds = tokens = 0.0
    begun = ended = work = 0.0
    for o in [*sorted(outcomes, key=lambda o: o.at), model.Outcome(0.0, 0, 0, "", float("inf"))]:
        if o.at > ended:
            if ended - begun >= STRETCH_S:
                seconds, tokens = seconds + ended - begun, tokens + work
            begun, work = o.at, 0.0
        work += o.prompt - o.cached
        ended = max(ended, o.at + o.ttft)
    return tokens / seconds / RATE if seconds else 0.0


def simulate(
    asks: list[model.Ask], workers: int, policy: RoutingPolicy, *, exact: bool, order: str
) -> list[model.Outcome]:
    """The same on a virtual clock."""
    setting = model.Setting(workers=workers, rate=RATE, block_size=traces.BLOCK, blocks=BLOCKS, step=STEP, order=order)
    return model.Replay(setting, exact=exact, policy_name=policy.value).run(asks)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--pace", type=float, nargs="+", default=[5.0], help="times the trace's own pace")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--policies", nargs="+", type=RoutingPolicy, default=[RoutingPolicy.KV_AWARE])
    parser.add_argument("--order", choices=["leastWork", "fcfs"], default="leastWork", help="of the engines")
    parser.add_argument("--requests", type=int, help="only so many, from the trace's beginning")
    parser.add_argument("--redis", action="store_true", help="events and load through a Valkey")
    parser.add_argument("--simulate-only", action="store_true")
    options = parser.parse_args()
    common = {"workers": options.workers, "order": options.order}
    for pace in options.pace:
        asks = traces.load(options.trace, pace=pace, limit=options.requests)
        ideal = traces.ideal_hit_rate(asks, options.workers * BLOCKS)
        title = f"pace x{pace:g}, {len(asks)} requests, {options.workers} workers; ideal hit rate {ideal:.3f}"
        table = Table("run", "hit", "p50 ms", "p90", "p99", "max", "failed", title=title)
        notes = []
        for policy in options.policies:
            if policy is RoutingPolicy.KV_AWARE:
                _row(table, "kvAware, exact knowledge, simulated", simulate(asks, policy=policy, exact=True, **common))
            _row(table, f"{policy.value}, simulated", simulate(asks, policy=policy, exact=False, **common))
            if not options.simulate_only:
                done = await replay(asks, policy=policy, redis=options.redis, **common)
                _row(table, f"{policy.value}, replayed", done.outcomes, done.failed)
                notes.append(f"{policy.value}: {_machine(done)}")
                notes += [f"  {name} {value:g}" for name, value in sorted(done.counted.items())]
        Console(width=110).print(table, *notes, sep="\n", highlight=False, soft_wrap=True)


def _row(table: Table, name: str, outcomes: list[model.Outcome], failed: int = 0) -> None:
    found = traces.summary(outcomes)
    figures = [f"{found[key]:,.0f}" for key in ("p50", "p90", "p99", "max")]
    table.add_row(name, f"{found['hit']:.3f}", *figures, str(failed))


def _machine(done: Replayed) -> str:
    slowest = min(done.pace, default=1.0)
    kept = slowest >= KEPT_PACE and done.late_p99 <= LATE_S
    cpu = ", ".join(f"{name} {share:.2f}" for name, share in done.cpu.items())
    return (
        f"slowest worker at {slowest:.1%} of its rate while busy, requests late by {done.late_p99 * 1e3:.1f} ms (p99); "
        f"cores used: {cpu}: {'the machine kept pace' if kept else 'THE MACHINE DID NOT KEEP PACE'}"
    )


if __name__ == "__main__":
    asyncio.run(main())
