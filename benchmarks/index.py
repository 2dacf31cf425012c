"""The KV index at scale: memory, updates, look-ups, and whether it comes to the truth after a bad stream of events.

    python benchmarks/index.py [--blocks 10000000] [--workers 256] [--events 1000000]

Workers hold conversations of 512 blocks, of which the first 64 are one of few common beginnings. They tell of blocks in
batches of 16, as one step of an engine does, and then forget and store. Rates are per second of processor time. Then
events come of which 1 in 100 is lost and 1 in 10 comes twice, shuffled within windows of 100; a worker whose batches
have a gap is asked for a snapshot, which comes 100 events later.
"""

import argparse
import os
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from argosy_router.routing.index import KvIndex, Outcome

LENGTH, COMMON, BEGINNINGS, STEP = 512, 64, 50, 16
LATER = 100
"""Events until a snapshot comes."""
SWEPT = 10_000
"""Events between two looks for what nobody holds any more."""


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def some_ids(rng: random.Random, count: int) -> list[bytes]:
    raw = rng.randbytes(16 * count)
    return [raw[i : i + 16] for i in range(0, len(raw), 16)]


class Teller:
    """A worker's numbered batches."""

    def __init__(self, index: KvIndex, name: str) -> None:
        self.index, self.name, self.seq = index, name, 0

    def tell(self, stored: list[bytes], removed: list[bytes]) -> None:
        self.seq += 1
        batch = SimpleNamespace(epoch=1, seq=self.seq, snapshot=False, stored=stored, removed=removed)
        if self.index.apply(self.name, batch) is not Outcome.APPLIED:
            raise RuntimeError("the index lost its place")


def batches(ids: list[bytes]) -> Iterator[list[bytes]]:
    for begin in range(0, len(ids), STEP):
        yield ids[begin : begin + STEP]


def at_scale(blocks: int, workers: int) -> None:
    rng, index = random.Random(1), KvIndex()
    beginnings = [some_ids(rng, COMMON) for _ in range(BEGINNINGS)]
    each = blocks // workers // LENGTH * LENGTH
    tellers = [Teller(index, f"w{i}") for i in range(workers)]
    for teller in tellers:
        index.join(teller.name, 2 * each)
    before, told, spent, asked = resident(), 0, 0.0, []
    for teller in tellers:
        chains = [some_ids(rng, LENGTH - COMMON) for _ in range(each // (LENGTH - COMMON))]
        common = rng.sample(beginnings, 10)
        asked.append([*rng.choice(common), *chains[0]])
        begun = time.process_time()
        for ids in (*common, *chains):
            for stored in batches(ids):
                teller.tell(stored, [])
            told += len(ids)
        spent += time.process_time() - begun
    most = (resident() - before) / len(index)
    index.settle()
    count = len(index)
    print(f"{count:,} blocks on {workers} workers: {index.nbytes / count:.1f} bytes a block in arrays; the process")
    grown = resident() - before
    print(f"grew by {grown / count:.1f} bytes a block, {grown / 2**20:.0f} MiB in all; by {most:.1f} while it was told")
    print(f"stored {told / spent:,.0f} blocks a second")
    churn(tellers, rng)
    ask(index, asked, rng)


def churn(tellers: list[Teller], rng: random.Random) -> None:
    """Each step forgets as much as it stores."""
    old: list[tuple[Teller, list[bytes]]] = [(rng.choice(tellers), some_ids(rng, STEP)) for _ in range(2000)]
    for teller, ids in old:
        teller.tell(ids, [])
    new = [some_ids(rng, STEP) for _ in old]
    begun = time.process_time()
    for (teller, gone), ids in zip(old, new, strict=True):
        teller.tell(ids, gone)
    print(f"stored and forgot {2 * STEP * len(old) / (time.process_time() - begun):,.0f} blocks a second")


def ask(index: KvIndex, prompts: list[list[bytes]], rng: random.Random) -> None:
    """Prompts that one worker holds, and others the beginning of; prompts that all hold in part; unknown ones."""
    unknown = [some_ids(rng, LENGTH) for _ in prompts]
    half = [[*p[: rng.randrange(1, LENGTH)], *some_ids(rng, LENGTH)][:LENGTH] for p in prompts]
    for what, asked in (("held", prompts), ("held in part", half), ("unknown", unknown)):
        times = []
        for prompt in asked * 8:
            begun = time.perf_counter()
            index.match(prompt)
            times.append(1e6 * (time.perf_counter() - begun))
        cuts = statistics.quantiles(times, n=100)
        rate = LENGTH * 1e6 / cuts[49]
        print(f"prompt of {LENGTH} blocks, {what}: p50 {cuts[49]:.0f} us, p99 {cuts[98]:.0f} us: {rate:,.0f} a second")


def bad_stream(events: int, workers: int) -> None:
    rng, index = random.Random(2), KvIndex()
    held: list[dict[bytes, None]] = [{} for _ in range(workers)]
    seqs, asked = [0] * workers, [0] * workers
    for who in range(workers):
        index.join(f"w{who}", 1000)
    repaired, window, due = 0, [], []  # due: (at which event, of whom)

    def snapshot(who: int) -> int:
        batch = SimpleNamespace(epoch=1, seq=seqs[who], snapshot=True, stored=list(held[who]), removed=[])
        index.apply(f"w{who}", batch)
        asked[who] = 0
        return len(held[who])

    def deliver(at: int) -> int:
        sent = 0
        rng.shuffle(window)
        for who, batch in window:
            outcome = index.apply(f"w{who}", batch)
            if outcome in (Outcome.GAP, Outcome.EPOCH) and not asked[who]:
                asked[who] = 1
                due.append((at + LATER, who))
        window.clear()
        while due and due[0][0] <= at:
            sent += snapshot(due.pop(0)[1])
        return sent

    for at in range(events):
        who = rng.randrange(workers)
        gone = [next(iter(held[who]))] if len(held[who]) > 200 else []
        for block in gone:
            del held[who][block]
        stored = some_ids(rng, 1)
        held[who].update(dict.fromkeys(stored))
        seqs[who] += 1
        batch = SimpleNamespace(epoch=1, seq=seqs[who], snapshot=False, stored=stored, removed=gone)
        if rng.random() >= 0.01:
            window += [(who, batch)] * (2 if rng.random() < 0.1 else 1)
        if at % 100 == 99:
            repaired += deliver(at)
        if at % SWEPT == SWEPT - 1:
            for _ in index.sweep():
                pass
    begun = time.perf_counter()
    deliver(events)
    for who in range(workers):  # a report of a worker's own place comes each second
        if index.position(f"w{who}") != (1, seqs[who], True):
            repaired += snapshot(who)
    index.settle()
    seconds = time.perf_counter() - begun
    wrong = sum(
        index.held(f"w{who}") != len(mine) or not index.holds(f"w{who}", list(mine)) for who, mine in enumerate(held)
    )
    print(f"{events:,} events, 1% lost, 10% twice, shuffled: {seconds:.2f} s after the end {wrong} workers are wrong;")
    print(f"snapshots had {repaired:,} blocks")
    if wrong:
        raise SystemExit("the index is not the truth")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=10_000_000)
    parser.add_argument("--workers", type=int, default=256)
    parser.add_argument("--events", type=int, default=1_000_000)
    options = parser.parse_args()
    at_scale(options.blocks, options.workers)
    bad_stream(options.events, options.workers)


if __name__ == "__main__":
    main()
