"""What nobody can have, for it takes knowing the trace: what there is to save at most, and by the number alone."""

import math
from collections import deque
from collections.abc import Iterator, Sequence

from autoscaling_model import START_S, TICK_S, Ask, Replay, Seen, Setting


class Foresight:
    """Knows what comes: each worker is asked for just so early that it serves in time, and goes when it is not needed.

    Nobody can have it; it says what there is to save. At each second there are as many as compute what waits and is
    due within `patience` times the promise, prompts in the order in which they come; who is needed again within the
    time of a start stays. It takes prompts to share nothing: where they do, it says too much.
    """

    def __init__(self, asks: Sequence[Ask], setting: Setting, patience: float) -> None:
        needed = _needed(asks, setting, setting.ttft_s * patience)
        self._wanted = [0] * len(needed)
        early = math.ceil(START_S + TICK_S)
        for level in range(1, max(needed) + 1):
            busy = [second for second, count in enumerate(needed) if count >= level]
            stay: set[int] = set()
            for second, after in zip(busy, [*busy[1:], len(needed)], strict=True):
                stay.update(range(max(0, second - early), second + 1))
                if after - second <= early:
                    stay.update(range(second, min(after, len(needed))))
            for second in stay:
                self._wanted[second] += 1

    def __call__(self, seen: Seen) -> int:
        return self._wanted[min(int(seen.at), len(self._wanted) - 1)]


def _needed(asks: Sequence[Ask], setting: Setting, promise_s: float) -> list[int]:
    """Workers that are needed in each second for what waits to be computed when it is due."""
    waiting: deque[tuple[float, float]] = deque()
    found, coming = [], deque(asks)
    for second in range(math.ceil(asks[-1].at) + 60):
        while coming and coming[0].at < second + 1:
            ask = coming.popleft()
            seconds = ask.tokens / setting.rate
            # a prompt that takes longer than is promised is late on any number of workers
            waiting.append((ask.at + max(promise_s, 2 * seconds), seconds))
        work, need = 0.0, 0.0
        for due, seconds in waiting:
            work += seconds
            need = max(need, work / max(1.0, due - second))
        count = min(max(math.ceil(need - 1e-9), setting.least), setting.most)
        left = float(count)
        while waiting and left > 0:
            due, seconds = waiting.popleft()
            if seconds > left:
                waiting.appendleft((due, seconds - left))
            left -= seconds
        found.append(count)
    return found


def constants(asks: Sequence[Ask], setting: Setting, piece_s: float) -> list[tuple[float, float]]:
    """What the best number for each `piece_s` of the trace costs, if somebody tells it beforehand.

    Pairs (share in time, replica-seconds), each the cheapest of its share, from the cheapest on. How many are late in
    a piece is taken from a replay with the piece's number from beginning to end, and workers serve at once: nobody
    who has a number for so long has it for less. Prompts must share nothing, for caches of such workers do not exist.
    """
    replays = [(n, sorted(_late(asks, setting, n))) for n in range(setting.least, setting.most + 1)]
    end = asks[-1].at + 60.0
    found = {0: 0.0}
    for piece in range(math.ceil(end / piece_s)):
        since, until = piece * piece_s, min((piece + 1) * piece_s, end)
        options = [(sum(since <= at < until for at in late), n * (until - since)) for n, late in replays]
        found = dict(_cheapest((a + b, c + d) for a, c in found.items() for b, d in options))
    return [(1 - late / len(asks), cost) for late, cost in reversed(found.items())]


def _late(asks: Sequence[Ask], setting: Setting, workers: int) -> list[float]:
    """When the requests came that so many workers serve too late."""
    there = Setting(
        rate=setting.rate, itl_s=setting.itl_s, ttft_s=setting.ttft_s, first=workers, least=workers, most=workers
    )
    replay = Replay(asks, there, lambda _seen: workers)
    replay.run()
    return [came - seconds for came, seconds in replay.ttft if seconds > setting.ttft_s]


def _cheapest(choices: Iterator[tuple[int, float]]) -> Iterator[tuple[int, float]]:
    """Of pairs (late, cost) those that no other one beats in both."""
    least = math.inf
    for late, cost in sorted(choices):
        if cost < least:
            least = cost
            yield late, cost
