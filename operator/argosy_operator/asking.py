"""What is worth asking, of workers and of the API server, beyond what watches tell; and when to ask again."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from argosy_api.spec.adapters import AdapterSpec
from argosy_api.worker_status import AdapterState, ServedModel, WorkerStatus
from argosy_operator.adapters import follows, is_settled
from argosy_operator.errors import ApiError
from argosy_operator.kube import KubeApi
from argosy_operator.observe import CREATING, PodView
from argosy_operator.workers import WorkerProbe

STARTING_S = 2.0
"""How often workers that start are asked how far they are."""
STARTING_LONG_S = 120.0
MOUNT_S = 15.0
SERVING_RETRY_S = 60.0
"""A ready worker that did not say what it serves is asked again after this long."""
ADAPTERS_S = 1.0
"""The same of one that has not come to the end of the list of adapters. (A failed one may be tried again there.)"""
MORE_S = 0.2
"""When there are more to ask than are asked at once."""
_STARTING_AT_ONCE = 8
_WAITED = "Unable to attach or mount volumes"
_SERVING_AT_ONCE = 32

_Life = tuple[str, int]
"""Of a container: the pod's uid, and how often it was restarted."""


@dataclass(slots=True)
class Told:
    """What ready workers have said; each is asked once in its life, and while it has not loaded all adapters."""

    models: dict[_Life, ServedModel] = field(default_factory=dict)
    adapters: dict[_Life, tuple[AdapterState, ...]] = field(default_factory=dict)
    tried_at: dict[_Life, float] = field(default_factory=dict)

    def by_pod(self, pods: tuple[PodView, ...]) -> dict[str, ServedModel]:
        """What these pods serve, as far as they have said."""
        return {pod.name: model for pod in pods if (model := self.models.get(_life(pod))) is not None}

    def adapters_of(self, pods: tuple[PodView, ...]) -> dict[str, tuple[AdapterState, ...]]:
        """What these pods say of adapters."""
        return {pod.name: said for pod in pods if (said := self.adapters.get(_life(pod))) is not None}


@dataclass(frozen=True, slots=True)
class Starting:
    """What is known of pods that are not ready, by name."""

    workers: Mapping[str, WorkerStatus] = field(default_factory=dict)
    mount_problems: Mapping[str, str] = field(default_factory=dict)


async def ask_starting(probe: WorkerProbe, api: KubeApi, namespace: str, pods: tuple[PodView, ...]) -> Starting:
    """Ask some of the workers that start how far they are, and why a volume does not mount."""
    starting = [pod for pod in pods if pod.active and not pod.ready]
    running = [pod for pod in starting if pod.running and pod.ip][:_STARTING_AT_ONCE]
    states = await asyncio.gather(*(probe.status(pod.ip) for pod in running))
    stuck = [pod for pod in starting if pod.is_waiting_long(time.time())][:1]
    return Starting(
        {pod.name: state for pod, state in zip(running, states, strict=True) if state is not None},
        {pod.name: text for pod in stuck if (text := await _mount_problem(api, namespace, pod))},
    )


async def ask_serving(
    probe: WorkerProbe, pods: tuple[PodView, ...], told: Told, wanted: Sequence[AdapterSpec] = ()
) -> tuple[bool, float]:
    """Ask ready workers what they serve. Whether there is news, and after how long to ask again.

    `wanted`: the adapters that they are to have.
    """
    ready = {_life(pod): pod.ip for pod in pods if pod.active and pod.ready and pod.ip}
    told.models = {life: model for life, model in told.models.items() if life in ready}
    told.adapters = {life: said for life, said in told.adapters.items() if life in ready}
    told.tried_at = {life: at for life, at in told.tried_at.items() if life in ready and _again(told, life, wanted)}
    now = time.monotonic()
    waits = {life: pause for life in ready if (pause := _again(told, life, wanted))}
    due = [life for life, pause in waits.items() if now - told.tried_at.get(life, float("-inf")) >= pause]
    asked = due[:_SERVING_AT_ONCE]
    states = await asyncio.gather(*(probe.status(ready[life]) for life in asked))
    told.tried_at |= dict.fromkeys(asked, now)
    answers = [(life, state) for life, state in zip(asked, states, strict=True) if state is not None and state.model]
    before = [(told.models.get(life), told.adapters.get(life)) for life, _ in answers]
    told.models |= {life: state.model for life, state in answers if state.model is not None}
    told.adapters |= {life: state.adapters for life, state in answers}
    news = before != [(state.model, state.adapters) for _, state in answers]
    if len(due) > len(asked):
        return news, MORE_S
    return news, min((pause for life in ready if (pause := _again(told, life, wanted))), default=float("inf"))


def _again(told: Told, life: _Life, wanted: Sequence[AdapterSpec]) -> float:
    """After how long a worker is to be asked again; 0: it has said all."""
    if life not in told.models:
        return SERVING_RETRY_S
    said = told.adapters.get(life, ())
    if is_settled(said, wanted):
        return 0.0
    return ADAPTERS_S if any(a.phase == "Loading" for a in said) or not follows(said, wanted) else SERVING_RETRY_S / 2


def ask_again(pods: tuple[PodView, ...], now: float) -> float:
    """After how long to ask about pods that are not ready: what watches tell needs no asking."""
    wait = float("inf")
    for pod in pods:
        if pod.ready or not pod.active:
            continue
        if pod.running:  # only the worker knows how far it is
            wait = min(wait, STARTING_S if now - pod.created_at < STARTING_LONG_S else 5 * STARTING_S)
        elif pod.scheduled and pod.waiting in ("", *CREATING):  # only Events tell of a volume that does not mount
            wait = min(wait, MOUNT_S)
    return wait


async def _mount_problem(api: KubeApi, namespace: str, pod: PodView) -> str:
    try:
        events = await api.events_of(namespace, pod.uid)
    except ApiError:
        return ""
    mounts = [e for e in events if e.get("reason") in ("FailedMount", "FailedAttachVolume")]
    # the API lists them by when each was first seen; what was seen last still holds
    messages = [str(e.get("message", "")) for e in sorted(mounts, key=_seen_at)]
    # after two minutes the kubelet also says that it has waited in vain, without the cause
    causes = [text for text in messages if not text.startswith(_WAITED)] or messages
    return causes[-1] if causes else ""


def _seen_at(event: Mapping[str, Any]) -> str:
    """When an Event was last seen: RFC 3339 in UTC, to whole seconds, so that strings compare as times."""
    last = event.get("lastTimestamp") or (event.get("series") or {}).get("lastObservedTime")
    return str(last or event.get("eventTime") or event.get("firstTimestamp") or "")[:19]


def _life(pod: PodView) -> _Life:
    return pod.uid, pod.restarts
