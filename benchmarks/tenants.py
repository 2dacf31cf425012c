"""Tenants that share workers: overload, turns, and what an answer's time tells of others.

    python benchmarks/tenants.py overload [--seconds 60]
    python benchmarks/tenants.py turns [--seconds 60]
    python benchmarks/tenants.py timing [--trials 1000]

Real processes: one router, simulated workers. `overload`: first what the workers can do (clients that ask again as soon
as they have an answer), then ten times as many requests at random times, then eight tenths of it again. `turns`: two
tenants, one with ten times as many clients as the other, who has more of them than workers can serve; the service of
each is what the router counted. `timing`: somebody else's prompt began with 64 tokens that a guesser tries to tell from
others by the time to the first token; with a cache of each tenant's own, and, as the control, with one for all.
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Sequence

import processes
from rich.console import Console
from rich.table import Table
from tenants_clients import ENGINE, URI, WORKERS, Clients, channel_to, fleet, keys, part

MAX_WAIT_S = 2.0
ANSWER_WEIGHT = 2.0
"""As the router's (`argosy_router.tenants.fair`)."""
WARM_S = 5.0

Rows = list[tuple[str, str, str, bool]]
"""What was measured, its value, what is wanted, whether it is so."""


async def overload(router: processes.Running, seconds: float) -> Rows:
    async with channel_to(router) as channel:
        clients = Clients(channel)
        await clients.again_and_again(4 * WORKERS * ENGINE.max_running, WARM_S)
        clients.samples.clear()
        begun = time.perf_counter()
        await clients.again_and_again(2 * WORKERS * ENGINE.max_running, 15)
        peak = sum(s.good for s in clients.samples) / (time.perf_counter() - begun)
        clients.samples.clear()
        await clients.at_rate(0.8 * peak, 15)
        usual = [s.waited for s in clients.samples if s.good]
        clients.samples.clear()
        begun = time.perf_counter()
        await clients.at_rate(10 * peak, seconds)
        ended = begun + seconds
        stormy = clients.samples[:]
    served = [s for s in stormy if s.good]
    good = sum(WARM_S <= s.ended - begun <= seconds for s in served) / (seconds - WARM_S)
    refused = [s.ended - s.sent for s in stormy if s.code == "RESOURCE_EXHAUSTED"]
    other = [s.code for s in stormy if s.code not in ("OK", "RESOURCE_EXHAUSTED")]
    rate, last = len(stormy) / seconds, max(s.ended for s in stormy) - ended
    half, most = 1e3 * part(refused, 0.5), 1e3 * part(refused, 0.99)
    return [
        ("peak, answers a second", f"{peak:.1f}", "", True),
        ("offered, requests a second", f"{rate:.0f}", "10 x peak", rate >= 9.5 * peak),
        ("goodput of peak", f"{good / peak:.3f}", ">= 0.9", good >= 0.9 * peak),
        ("first token of those who are served, p99, s", f"{part([s.waited for s in served], 0.99):.2f}", "", True),
        ("refused", f"{len(refused)}", "", True),
        ("refused after, p50 / p99, ms", f"{half:.1f} / {most:.1f}", "<= 20", most <= 20),
        ("ended otherwise", f"{len(other)} {set(other) or ''}", "0", not other),
        ("first token at 0.8 x peak, p50 / p90, s", f"{part(usual, 0.5):.3f} / {part(usual, 0.9):.3f}", "", True),
        ("last answer after the end of the storm, s", f"{last:.1f}", "<= 5", last <= 5),
    ]


async def recovery(router: processes.Running) -> Rows:
    """Ten seconds of ten times the peak, and at once eight tenths of it: when is it as before?"""
    async with channel_to(router) as channel:
        clients = Clients(channel, seed=2)
        await clients.again_and_again(2 * WORKERS * ENGINE.max_running, 10)
        peak = sum(s.good for s in clients.samples) / 10
        clients.samples.clear()
        await clients.at_rate(0.8 * peak, 15)
        usual = part([s.waited for s in clients.samples if s.good], 0.9)
        storm = asyncio.ensure_future(clients.at_rate(10 * peak, 10))
        await asyncio.sleep(10)
        after = Clients(channel, seed=3)
        began = time.perf_counter()
        await asyncio.gather(storm, after.at_rate(0.8 * peak, 15))
        late = [s for s in after.samples if s.sent >= began + 5]
        found = part([s.waited for s in late if s.good], 0.9)
        refused = sum(not s.good for s in late)
    limit = max(2 * usual, usual + 0.1)
    return [
        ("5 s after the end: first token p90, s", f"{found:.3f}", f"<= {limit:.3f}", found <= limit),
        ("5 s after the end: not served", f"{refused} of {len(late)}", "0", not refused),
    ]


async def turns(router: processes.Running, tenants: Sequence[str], seconds: float) -> Rows:
    async with channel_to(router) as one, channel_to(router) as other:
        heavy, light = Clients(one, tenants[0]), Clients(other, tenants[1], seed=2)

        def service() -> list[float]:
            told = router.metrics()

            def of(tenant: str, kind: str) -> float:
                return told.get(f'argosy_router_tenant_tokens_total{{kind="{kind}",tenant="{tenant}"}}', 0.0)

            return [of(t, "prompt") - of(t, "cached") + ANSWER_WEIGHT * of(t, "generated") for t in ("heavy", "light")]

        few, many = 5 * WORKERS * ENGINE.max_running // 2, 25 * WORKERS * ENGINE.max_running
        load = asyncio.gather(
            heavy.again_and_again(many, seconds + WARM_S), light.again_and_again(few, seconds + WARM_S)
        )
        await asyncio.sleep(WARM_S)
        before = service()
        await asyncio.sleep(seconds - WARM_S)
        had = [b - a for a, b in zip(before, service(), strict=True)]
        await load
    ratio = had[0] / had[1]
    waits = [s.waited for s in light.samples if s.good]
    served, refused = (sum(s.good is good for s in heavy.samples) for good in (True, False))
    return [
        ("clients of heavy, of light, which ask again and again", f"{many}, {few}", "10 : 1", many == 10 * few),
        ("service of heavy / of light", f"{ratio:.3f}", "0.95 to 1.05", 0.95 <= ratio <= 1.05),
        ("light: first token p50 / p99, s", f"{part(waits, 0.5):.2f} / {part(waits, 0.99):.2f}", "", True),
        ("heavy: served, refused", f"{served}, {refused}", "", True),
    ]


async def timing(router: processes.Running, tenants: Sequence[str], trials: int) -> float:
    """The area under the curve of the guess: 0.5 tells nothing, 1 tells all."""
    rng = random.Random(5)
    async with channel_to(router) as one, channel_to(router) as other:
        victim, guesser = Clients(one, tenants[0]), Clients(other, tenants[1])
        times: dict[bool, list[float]] = {True: [], False: []}
        for i in range(trials + 20):
            secret, wrong = ([rng.randrange(256) for _ in range(64)] for _ in range(2))
            await victim.ask([*secret, *(rng.randrange(256) for _ in range(8))], 1)
            for right in rng.sample((True, False), 2):
                tail = [rng.randrange(256) for _ in range(8)]
                sample = await guesser.ask([*(secret if right else wrong), *tail], 1)
                if i >= 20 and sample.code == "OK":
                    times[right].append(sample.first - sample.sent)
    return auc(times[True], times[False])


def auc(lower: Sequence[float], higher: Sequence[float]) -> float:
    """Probability that one of `lower` is less than one of `higher` (Mann-Whitney)."""
    ranked = sorted([(value, 0) for value in lower] + [(value, 1) for value in higher])
    above = seen = 0
    for _, kind in ranked:
        if kind:
            above += seen
        else:
            seen += 1
    return above / (len(lower) * len(higher))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["overload", "turns", "timing"])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--trials", type=int, default=1000)
    options = parser.parse_args()
    if options.what == "overload":
        with fleet(f"--max-wait-seconds={MAX_WAIT_S}") as router:
            rows = asyncio.run(overload(router, options.seconds))
            rows += asyncio.run(recovery(router))
    elif options.what == "turns":
        with keys("heavy", "light") as (made, more), fleet(*more) as router:
            rows = asyncio.run(turns(router, made, options.seconds))
    else:
        slow = URI.replace("prefill_tps=20000", "prefill_tps=8000").replace("decode_ms=20", "decode_ms=1")
        found = []
        for share in (False, True):
            with (
                keys("victim", "guesser") as (made, more),
                fleet(*more, share_cache=share, uri=slow, workers=1) as router,
            ):
                found.append(asyncio.run(timing(router, made, options.trials)))
        rows = [
            ("AUC, a cache of each tenant's own", f"{found[0]:.3f}", "<= 0.55", abs(found[0] - 0.5) <= 0.05),
            ("AUC, one cache for all (control)", f"{found[1]:.3f}", ">= 0.9", found[1] >= 0.9),
        ]
    table = Table("", "measured", "wanted", "")
    for name, value, wanted, holds in rows:
        table.add_row(name, value, wanted, ("" if not wanted else "holds" if holds else "FAILS"))
    Console(width=120).print(table)
    if not all(row[3] for row in rows):
        sys.exit("not all of it holds")


if __name__ == "__main__":
    main()
