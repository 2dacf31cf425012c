"""The autoscalers that are compared: the product's own decision, and peers as their documentation says they decide.

Each has a target and a window; `frontier` tries many of both on one trace.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from autoscaling_model import Ask, Autoscaler, Replay, Result, Seen, Setting

from argosy_api.resource import AutoscalingSpec
from argosy_operator.autoscaling.decide import History, Standing, decide_replicas


class Argosy:
    """The product's own decision."""

    def __init__(self, spec: AutoscalingSpec, *, every: float = 2.0) -> None:
        self._spec, self._every = spec, every
        self._history, self._at, self._wanted = History(), float("-inf"), -1

    def __call__(self, seen: Seen) -> int:
        if self._wanted < 0:
            self._wanted = seen.asked
        if seen.at - self._at < self._every:
            return self._wanted
        self._at = seen.at
        standing = Standing(self._wanted, seen.serving, self._spec.min_replicas)
        decision = decide_replicas(seen.signals, self._spec, standing, self._history, seen.at)
        self._history, self._wanted = decision.history, decision.replicas
        return self._wanted


class HpaOnQueueLength:
    """A HorizontalPodAutoscaler on the number of waiting requests (external metric, averageValue), with its defaults:

    a look each 15 s, tolerance 10 %, up by 4 or 100 % in 15 s, down to the most of the last 300 s.
    """

    def __init__(self, target: float, *, window: float = 300.0) -> None:
        self._target, self._window = target, window
        self._at = float("-inf")
        self._wanted = -1
        self._past: deque[tuple[float, int]] = deque()

    def __call__(self, seen: Seen) -> int:
        if self._wanted < 0:
            self._wanted = seen.asked
        if seen.at - self._at < 15.0:
            return self._wanted
        self._at = seen.at
        exact = seen.waiting / self._target
        found = max(1, math.ceil(exact))
        if seen.serving and abs(exact / seen.serving - 1) <= 0.1:
            found = seen.asked
        self._past.append((seen.at, found))
        while self._past[0][0] <= seen.at - self._window:
            self._past.popleft()
        if found > self._wanted:
            self._wanted = min(found, max(self._wanted + 4, 2 * self._wanted))
        else:
            self._wanted = min(self._wanted, max(n for _, n in self._past))
        return self._wanted


class KpaOnConcurrency:
    """Knative's autoscaler on concurrency: the mean over a window (60 s), and over a tenth of it in a panic

    (twice what there is), which lasts a window and lets nothing go; a look each 2 s.
    """

    def __init__(self, target: float, *, window: float = 60.0) -> None:
        self._target, self._window = target, window
        self._at = float("-inf")
        self._wanted = -1
        self._panic_until = float("-inf")
        self._past: deque[tuple[float, int]] = deque()

    def __call__(self, seen: Seen) -> int:
        if self._wanted < 0:
            self._wanted = seen.asked
        self._past.append((seen.at, seen.signals.requests))
        while self._past[0][0] <= seen.at - self._window:
            self._past.popleft()
        if seen.at - self._at < 2.0:
            return self._wanted
        self._at = seen.at
        stable = math.ceil(_mean([n for _, n in self._past]) / self._target)
        panic = math.ceil(_mean([n for at, n in self._past if at > seen.at - self._window / 10]) / self._target)
        if panic >= 2 * max(1, seen.serving):
            self._panic_until = seen.at + self._window
        if seen.at < self._panic_until:
            self._wanted = max(self._wanted, panic)
        else:
            self._wanted = max(1, stable, self._wanted // 2)
        return self._wanted


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else 0.0


Choice = tuple[float, float]
"""Target, and window in seconds."""


def frontier(
    traces: Sequence[Sequence[Ask]],
    setting: Setting,
    make: Callable[[float, float], Autoscaler],
    choices: Sequence[Choice],
) -> dict[Choice, Result]:
    """A result for each choice: of one trace, or the means over several."""
    return {c: mean([Replay(asks, setting, make(*c)).run() for asks in traces]) for c in choices}


def mean(results: Sequence[Result]) -> Result:
    """Of one it is that one; of several without a course, and with the largest number of any."""
    if len(results) == 1:
        return results[0]
    return Result(
        replica_seconds=sum(r.replica_seconds for r in results) / len(results),
        within=sum(r.within for r in results) / len(results),
        most=max(r.most for r in results),
        computing_s=sum(r.computing_s for r in results) / len(results),
    )


def argosy(setting: Setting) -> Callable[[float, float], Autoscaler]:
    """The product on `queueSeconds`, by target and window; the rest as it is by default."""

    def make(target: float, window: float) -> Autoscaler:
        spec = {
            "minReplicas": setting.least, "maxReplicas": setting.most,
            "metrics": [{"type": "queueSeconds", "target": target}],
            "scaleDown": {"stabilizationSeconds": int(window)},
        }  # fmt: skip
        return Argosy(AutoscalingSpec.model_validate(spec))

    return make


def hpa(target: float, window: float) -> Autoscaler:
    """See `HpaOnQueueLength`."""
    return HpaOnQueueLength(target, window=window)


def kpa(target: float, window: float) -> Autoscaler:
    """See `KpaOnConcurrency`."""
    return KpaOnConcurrency(target, window=window)


def cheapest(found: Mapping[Choice, Result], share: float) -> tuple[Choice, Result] | None:
    """The choice with the least replica-seconds of those that serve at least this share in time."""
    good = {t: r for t, r in found.items() if r.within >= share}
    return min(good.items(), key=lambda item: item[1].replica_seconds) if good else None
