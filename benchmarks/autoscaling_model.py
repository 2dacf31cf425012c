"""Workers that come and go under a trace, on a virtual clock: what an autoscaler costs, and what requests get of it.

Simple on purpose, and the same for every autoscaler: a worker computes prompts one after the other at a nominal rate
and then generates in parallel; a request goes where its first token comes soonest; a new worker serves after START_S
with an empty cache; one that must go takes nothing new, and counts until its last request has ended. Requests wait
where no worker serves. Every autoscaler sees what was the case LAG_S ago; times to the first token it is not told, as
none of those that are compared goes by them.
"""

import bisect
import math
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from argosy_operator.autoscaling.signals import Signals

START_S = 30.0
LAG_S = 2.0
TICK_S = 1.0
WINDOW_S = 60.0


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: when (seconds), its prompt as hashes of blocks or a number of tokens, and tokens of the answer."""

    at: float
    tokens: int
    answer: int
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A worker, and what is promised."""

    rate: float
    """Prompt tokens per second."""
    itl_s: float = 0.02
    block: int = 512
    cache_blocks: int = 2_000
    ttft_s: float
    """Requests should get their first token within so many seconds."""
    first: int = 1
    """Workers at the beginning: a trace is cut out of what went on before."""
    least: int = 1
    most: int = 20


@dataclass(eq=False, slots=True)
class Worker:
    """One worker; FCFS, so a prompt's place in time is known when it comes."""

    serves_at: float
    free_at: float = 0.0
    ends: list[float] = field(default_factory=list)
    """When its requests end."""
    starts: list[float] = field(default_factory=list)
    """When their prompts begin, sorted."""
    cache: "OrderedDict[int, None]" = field(default_factory=OrderedDict)

    def uncached(self, ask: Ask, setting: Setting) -> int:
        known = 0
        for block in ask.blocks[: (ask.tokens - 1) // setting.block]:
            if block not in self.cache:
                break
            known += 1
        return ask.tokens - known * setting.block

    def take(self, ask: Ask, now: float, setting: Setting) -> tuple[float, int]:
        """When its first token comes, and how many tokens were computed for it."""
        tokens = self.uncached(ask, setting)
        start = max(now, self.free_at)
        self.free_at = start + tokens / setting.rate
        bisect.insort(self.starts, start)
        bisect.insort(self.ends, self.free_at + ask.answer * setting.itl_s)
        for block in ask.blocks[: ask.tokens // setting.block]:
            self.cache.pop(block, None)
            self.cache[block] = None
        while len(self.cache) > setting.cache_blocks:
            self.cache.popitem(last=False)
        return self.free_at, tokens

    def inside(self, now: float) -> int:
        return len(self.ends) - bisect.bisect_right(self.ends, now)

    def waiting(self, now: float) -> int:
        return len(self.starts) - bisect.bisect_right(self.starts, now)


@dataclass(frozen=True, slots=True)
class Seen:
    """What an autoscaler may look at."""

    at: float
    signals: Signals
    waiting: int
    """Requests whose prompt has not begun, and those that no worker has."""
    asked: int
    """Workers that there are or that are on their way."""
    serving: int


class Autoscaler(Protocol):
    """Says how many workers there should be, each TICK_S."""

    def __call__(self, seen: Seen) -> int: ...


@dataclass(frozen=True, slots=True)
class Result:
    """What it cost, and what requests got."""

    replica_seconds: float
    within: float
    """Share of requests with a first token in time."""
    most: int
    course: tuple[tuple[float, int], ...] = ()
    """When the number changed, and to what."""
    computing_s: float = 0.0
    """Worker-seconds in which prompts were computed: with what was cached here nobody does with fewer."""

    def saved(self, other: "Result") -> float:
        """Part of another one's replica-seconds that this one does without."""
        return 1 - self.replica_seconds / other.replica_seconds


class Replay:
    """One trace, one autoscaler."""

    def __init__(self, asks: Sequence[Ask], setting: Setting, autoscaler: Autoscaler) -> None:
        self.asks, self.setting, self.autoscaler = asks, setting, autoscaler
        self.workers = [Worker(0.0) for _ in range(max(setting.first, setting.least))]
        self.leaving: list[Worker] = []
        self.held: deque[Ask] = deque()
        self.ttft: list[tuple[float, float]] = []
        """(when the first token came, seconds since the request came) of each request."""
        self.computed: deque[tuple[float, int]] = deque()
        self.cost = self.computing_s = 0.0
        self.course = [(0.0, len(self.workers))]
        self._seen: deque[Seen] = deque()
        self._last_at = 0.0

    def run(self) -> Result:
        end = self.asks[-1].at + 60.0
        now, next_ask = 0.0, 0
        while now < end:
            while next_ask < len(self.asks) and self.asks[next_ask].at <= now + TICK_S:
                self._come(self.asks[next_ask])
                next_ask += 1
            now += TICK_S
            self._release(now)
            self._scale(now)
            self.leaving = [w for w in self.leaving if w.inside(now)]
            self.cost += TICK_S * (len(self.workers) + len(self.leaving))
        times = [seconds for _, seconds in self.ttft] + [math.inf] * len(self.held)
        within = sum(t <= self.setting.ttft_s for t in times) / len(self.asks)
        return Result(self.cost, within, max(n for _, n in self.course), tuple(self.course), self.computing_s)

    def _come(self, ask: Ask) -> None:
        self._last_at = ask.at
        if not self._assign(ask, ask.at):
            self.held.append(ask)

    def _assign(self, ask: Ask, now: float) -> bool:
        serving = [w for w in self.workers if w.serves_at <= now]
        if not serving:
            return False
        rate = self.setting.rate
        best = min(serving, key=lambda w: max(0.0, w.free_at - now) + w.uncached(ask, self.setting) / rate)
        first, tokens = best.take(ask, now, self.setting)
        self.ttft.append((first, first - ask.at))
        self.computed.append((now, tokens))
        self.computing_s += tokens / rate
        return True

    def _release(self, now: float) -> None:
        while self.held and self._assign(self.held[0], now):
            self.held.popleft()

    def _scale(self, now: float) -> None:
        self._seen.append(self._look(now))
        while len(self._seen) > 1 and self._seen[1].at <= now - LAG_S:
            self._seen.popleft()
        old = self._seen[0]
        serving = sum(w.serves_at <= now for w in self.workers)
        wanted = self.autoscaler(Seen(now, old.signals, old.waiting, len(self.workers), serving))
        wanted = min(max(wanted, self.setting.least), self.setting.most)
        if wanted == len(self.workers):
            return
        while len(self.workers) < wanted:
            self.workers.append(Worker(now + START_S))
        # who does not serve yet goes first, then who has least to lose: the same for all autoscalers
        self.workers.sort(key=lambda w: (w.serves_at <= now, w.inside(now), len(w.cache)), reverse=True)
        for worker in self.workers[wanted:]:
            self.leaving.append(worker)
        del self.workers[wanted:]
        self.course.append((now, wanted))

    def _look(self, now: float) -> Seen:
        while self.computed and self.computed[0][0] <= now - WINDOW_S:
            self.computed.popleft()
        everybody = [*self.workers, *self.leaving]
        inside = sum(w.inside(now) for w in everybody)
        length = min(WINDOW_S, max(5.0, now))
        signals = Signals(
            held=len(self.held),
            requests=inside + len(self.held),
            queue_s=sum(max(0.0, w.free_at - now) for w in everybody),
            arriving=sum(tokens for _, tokens in self.computed) / length / self.setting.rate,
            idle_s=0.0 if inside or self.held else now - self._last_at,
        )
        waiting = sum(w.waiting(now) for w in everybody) + len(self.held)
        serving = sum(w.serves_at <= now for w in self.workers)
        return Seen(now, signals, waiting, len(self.workers), serving)
