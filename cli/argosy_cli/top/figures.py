"""What deployments do, from two looks at what routers tell. Pure.

A router tells of each worker what that counted since its process began, and how old the report is: what happened
between two reports, by the time between them, is a rate that does not depend on when somebody looked.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from argosy_api.routes import WorkerLoad
from argosy_operator.autoscaling.signals import Told, freshest, signals

WINDOW_S = 60.0
"""The hit rate is that of the last minute, or of the time since the first look."""

Key = tuple[str, str]
"""Namespace and name of a resource."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A resource, as whoever runs it says that it stands."""

    namespace: str
    name: str
    ready: int
    desired: int
    reason: str = ""

    @property
    def key(self) -> Key:
        """How it is found among what routers tell."""
        return self.namespace, self.name


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker had counted at one moment."""

    at: float
    """Monotonic seconds."""
    load: WorkerLoad


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One deployment. None: nobody tells."""

    namespace: str
    name: str
    ready: int
    desired: int
    reason: str = ""
    queue_s: float | None = None
    """Seconds of prompt work that wait, at all workers together."""
    running: int | None = None
    waiting: int | None = None
    held: int | None = None
    """Requests that routers hold because no worker is there."""
    hit_rate: float | None = None
    """Part of the prompts' tokens that was cached, 0 to 1; None also where no prompt came."""
    generated_rate: float | None = None
    """Tokens in a second."""
    prompt_rate: float | None = None
    """The same of prompts, the cached tokens among them."""
    kv_used: float | None = None
    """Part of the KV blocks that requests hold, mean over the workers, 0 to 1."""
    ttft_s: float | None = None
    """90th percentile of the last minute."""
    itl_s: float | None = None
    """Mean over the workers of their 90th percentiles."""


@dataclass(slots=True)
class Watch:
    """Remembers the reports of one deployment's workers for as long as figures need them."""

    _reports: dict[str, list[Report]] = field(default_factory=dict)

    def row(self, deployment: Deployment, told: Told | None, now: float) -> Row:
        """The figures; `told` is what the routers say of it, None where none answers."""
        plain = Row(
            namespace=deployment.namespace, name=deployment.name, ready=deployment.ready, desired=deployment.desired,
            reason=deployment.reason,
        )  # fmt: skip
        known = [answer for answer in (told.answers if told else ()) if answer is not None]
        if told is None or not known:
            self._reports.clear()
            return plain
        loads = freshest(known, now - told.at)
        self._take(loads, told.at)
        found = signals(told, now)
        waiting = sum(load.waiting for load in loads.values())
        recent = [_between(reports[-2], reports[-1]) for reports in self._reports.values() if len(reports) > 1]
        long = [_between(reports[0], reports[-1]) for reports in self._reports.values()]
        prompts = sum(delta.prompt for delta in long)
        return Row(
            namespace=plain.namespace,
            name=plain.name,
            ready=plain.ready,
            desired=plain.desired,
            reason=plain.reason,
            queue_s=sum(load.queue_s for load in loads.values()),
            running=sum(load.requests for load in loads.values()) - waiting,
            waiting=waiting,
            held=found.held,
            hit_rate=sum(delta.cached for delta in long) / prompts if prompts else None,
            generated_rate=sum(delta.generated / delta.seconds for delta in recent) if recent or not loads else None,
            prompt_rate=sum(delta.prompt / delta.seconds for delta in recent) if recent or not loads else None,
            kv_used=sum(load.kv_used for load in loads.values()) / len(loads) if loads else None,
            ttft_s=found.rare_ttft,
            itl_s=found.itl,
        )

    def _take(self, loads: Mapping[str, WorkerLoad], answered_at: float) -> None:
        for name in self._reports.keys() - loads.keys():
            del self._reports[name]
        for name, load in loads.items():
            new, kept = Report(answered_at - load.age_s, load), self._reports.setdefault(name, [])
            if kept and load.generated_tokens < kept[-1].load.generated_tokens:
                kept.clear()  # a new process counts anew
            if kept and new.at - kept[-1].at < _SAME_S:
                continue
            kept.append(new)
            while len(kept) > 2 and new.at - kept[1].at >= WINDOW_S:
                del kept[0]


_SAME_S = 0.25
"""Workers report once a second: two looks at one report differ by the time that the answers took."""


@dataclass(frozen=True, slots=True)
class _Delta:
    seconds: float
    prompt: int
    cached: int
    generated: int


def _between(first: Report, last: Report) -> _Delta:
    old, new = first.load, last.load
    return _Delta(
        last.at - first.at,
        new.prompt_tokens - old.prompt_tokens,
        new.cached_tokens - old.cached_tokens,
        new.generated_tokens - old.generated_tokens,
    )
