"""Asks every router replica which workers it can reach: a worker is routable once all of them can."""

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp

from argosy_api import limits, net
from argosy_api.measures import Trial
from argosy_api.routes import DeploymentRoutes, Routes
from argosy_kube.http import body_of
from argosy_operator import kv_index
from argosy_operator.autoscaling.signals import Told
from argosy_operator.facts import RouterFacts

log = logging.getLogger(__name__)

SETTLED_S = 5.0
ATTENTIVE_S = 1.0
"""While somebody scales by what routers tell."""
ATTENTIVE_FOR_S = 15.0
HURRY_S = 0.25
HURRY_FOR_S = 20.0
TIMEOUT_S = 2.0
BEHIND_S = 15.0
"""A router whose index has not followed a worker's cache for so long won't soon: by itself it asks within seconds."""
GRACE_S = 15.0
"""How long the last answers count when no router answers any more: a dropped connection is no outage."""

ByDeployment = Mapping[tuple[str, str], frozenset[str]]
Answer = Mapping[tuple[str, str], DeploymentRoutes]
"""What one router says, by resource."""


@dataclass(frozen=True, slots=True)
class View:
    """The answers of one round, together."""

    reachable: int = 0
    total: int = 0
    ready: ByDeployment = field(default_factory=dict)
    reached: ByDeployment = field(default_factory=dict)
    behind: ByDeployment = field(default_factory=dict)
    trials: Mapping[tuple[str, str], Trial] = field(default_factory=dict)
    index: Mapping[tuple[str, str], kv_index.Judgement] = field(default_factory=dict)
    error: str = ""
    answers: tuple[Answer, ...] = ()
    asked: bool = True


class Routers:
    """The routers' views; `run` keeps them fresh."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, changed: Callable[[tuple[str, str] | None], None]
    ) -> None:
        """`changed` is called with the resource whose view has changed, with None when that of all has."""
        self._session, self._url, self._changed = session, url, changed
        self._view = View(asked=False)
        self._good_at = float("-inf")
        self._answers: tuple[Answer, ...] = ()
        self._answered_at, self._asked = float("-inf"), 0
        self._hurry_until = self._attentive_until = float("-inf")
        self._wake = asyncio.Event()

    def facts(self, namespace: str, name: str) -> RouterFacts | None:
        """What they say of one resource; None when this installation asks none."""
        if not self._url:
            return None
        view = self._view
        key = (namespace, name)
        return RouterFacts(
            reachable=view.reachable,
            total=view.total,
            ready=view.ready.get(key, frozenset()),
            reached=view.reached.get(key, frozenset()),
            behind=view.behind.get(key, frozenset()),
            trial=view.trials.get(key),
            index=view.index.get(key),
            error=view.error,
            asked=view.asked,
        )

    def told(self, namespace: str, name: str) -> Told | None:
        """What the last round of questions brought about one resource, and that the next ones come soon."""
        self._attentive_until = time.monotonic() + ATTENTIVE_FOR_S
        if not self._answers:
            return None
        return Told(self._answered_at, self._asked, [answer.get((namespace, name)) for answer in self._answers])

    def hurry(self) -> None:
        """Somebody waits for a router to learn of a worker: ask often for a while."""
        if time.monotonic() > self._hurry_until - HURRY_FOR_S / 2:
            self._hurry_until = time.monotonic() + HURRY_FOR_S
            self._wake.set()

    async def run(self) -> None:
        """Runs until it is cancelled."""
        while self._url:
            self._take(await self._round())
            period = self._period(time.monotonic())
            self._wake.clear()
            try:
                async with asyncio.timeout(period):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _period(self, now: float) -> float:
        if now < self._hurry_until:
            return HURRY_S
        return ATTENTIVE_S if now < self._attentive_until else SETTLED_S

    def _take(self, new: View) -> None:
        old, now = self._view, time.monotonic()
        if new.reachable:
            self._good_at = now
            for key in held(new.answers) - held(self._answers):
                self._changed(key)
            self._answers, self._answered_at, self._asked = new.answers, now, new.total
        elif now - self._good_at < GRACE_S:
            return
        self._view = new
        if (old.reachable, old.total, old.error, old.asked) != (new.reachable, new.total, new.error, new.asked):
            log.info("%d of %d routers answer %s", new.reachable, new.total, new.error)
            self._changed(None)
            return
        for key in old.reached.keys() | new.reached.keys():
            if _of(old, key) != _of(new, key):
                self._changed(key)

    async def _round(self) -> View:
        parts = urlsplit(self._url)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                found = await asyncio.get_running_loop().getaddrinfo(
                    parts.hostname, parts.port or 80, type=socket.SOCK_STREAM
                )
        except (TimeoutError, OSError) as failure:
            return View(error=f"{parts.hostname}: {str(failure) or 'no answer'}")
        addresses = sorted({info[4][:2] for info in found})
        path = parts.path or "/"
        answers = await asyncio.gather(*(self._ask(str(host), int(port), path) for host, port in addresses))
        good = [answer for answer in answers if not isinstance(answer, str)]
        error = next((answer for answer in answers if isinstance(answer, str)), "")
        ready, reached = (common([which(answer) for answer in good]) for which in (ready_workers, reached_workers))
        return View(
            len(good), len(answers), ready, reached, behind(good), together(good), judged(good), error, tuple(good)
        )

    async def _ask(self, host: str, port: int, path: str) -> Answer | str:
        url = f"http://{net.address(host, port)}{path}"
        try:
            async with asyncio.timeout(TIMEOUT_S), self._session.get(url) as response:
                if response.status != 200:
                    return f"status {response.status}"
                return by_resource(Routes.parse(await body_of(response, most=limits.MAX_ROUTES_BYTES)))
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            return str(error) or type(error).__name__


def by_resource(routes: Routes) -> Answer:
    """What a router says, by resource."""
    return {(d.namespace, d.name): d for d in routes.deployments}


def _of(view: View, key: tuple[str, str]) -> tuple[object, ...]:
    return view.ready.get(key), view.reached.get(key), view.behind.get(key), view.trials.get(key), view.index.get(key)


def behind(answers: list[Answer]) -> ByDeployment:
    """Workers whose caches some router does not follow, by resource."""
    found: dict[tuple[str, str], frozenset[str]] = {}
    for key, deployment in ((key, d) for answer in answers for key, d in answer.items()):
        if late := deployment.behind(BEHIND_S):
            found[key] = found.get(key, frozenset()) | late
    return found


def judged(answers: list[Answer]) -> dict[tuple[str, str], kv_index.Judgement]:
    """Whether what all of them know of caches is true, by resource."""
    found = {}
    for key in {key for answer in answers for key in answer}:
        judgement = kv_index.together(answer[key] for answer in answers if key in answer)
        if judgement is not None:
            found[key] = judgement
    return found


def together(answers: list[Answer]) -> dict[tuple[str, str], Trial]:
    """What all of them measured, by resource; a router that has not heard of the canary yet does not count."""
    found: dict[tuple[str, str], Trial] = {}
    for key, trial in ((key, d.trial) for answer in answers for key, d in answer.items()):
        if trial is None:
            continue
        before = found.get(key)
        found[key] = trial if before is None or before.revision != trial.revision else before.plus(trial)
    return found


def held(answers: tuple[Answer, ...]) -> frozenset[tuple[str, str]]:
    """Resources for which requests wait because no worker is there."""
    return frozenset(key for answer in answers for key, d in answer.items() if d.demand is not None and d.demand.held)


def ready_workers(answer: Answer) -> ByDeployment:
    """Ready workers by resource."""
    return {key: deployment.ready for key, deployment in answer.items()}


def reached_workers(answer: Answer) -> ByDeployment:
    """Workers that answer, by resource: also those whose pods are not ready yet."""
    return {key: deployment.reached for key, deployment in answer.items()}


def common(answers: list[ByDeployment]) -> ByDeployment:
    """Workers that all of them can reach."""
    if not answers:
        return {}
    keys = set[tuple[str, str]]().union(*answers)
    return {key: frozenset.intersection(*(a.get(key, frozenset()) for a in answers)) for key in keys}
