"""One pass over one resource: observe, plan, apply, status. Level-triggered: nothing but the present counts."""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from argosy_api import resource as resource_types
from argosy_api.backoff import Backoff
from argosy_api.errors import ArgosyError
from argosy_api.resource import Condition, InferenceDeployment, InferenceDeploymentStatus, ModelStatus
from argosy_api.worker_status import WorkerStatus
from argosy_operator import conditions, manifests
from argosy_operator.carry_out import OWN_ECHO_S, Made, carry_out
from argosy_operator.conditions import Facts, Failure, RouterFacts, is_routable
from argosy_operator.diagnose import Reason
from argosy_operator.errors import ApiError, NameConflictError
from argosy_operator.events import Announcer
from argosy_operator.kube import KubeApi
from argosy_operator.observe import CREATING, Children, PodView
from argosy_operator.plan import ChildRef, Observed, Owner, plan
from argosy_operator.settings import Settings
from argosy_operator.workers import WorkerProbe, model_status

log = logging.getLogger(__name__)

STARTING_S = 2.0
"""How often workers that start are asked how far they are."""
STARTING_LONG_S = 120.0
MOUNT_S = 15.0
MODEL_RETRY_S = 60.0
_MAX_PROBES = 8
_CONFLICT = Backoff(first=0.1, cap=2.0)
"""After somebody else was faster: there is hardly a reason to wait."""
_REFUSED = Backoff(first=0.5, cap=30.0)


@dataclass(slots=True)
class Memory:
    """What one resource's control loop remembers. Losing it costs a few superfluous applies, nothing else."""

    made: Made = field(default_factory=Made)
    status: Mapping[str, Any] | None = None
    model: ModelStatus | None = None
    model_revision: str = ""
    model_tried_at: float = float("-inf")
    failures: int = 0
    """Passes in a row that failed."""
    announcer: Announcer = field(default_factory=Announcer)


class Reconciler:
    """Makes the cluster what the resource says, and the status what the cluster is."""

    def __init__(
        self,
        api: KubeApi,
        settings: Settings,
        *,
        children: Callable[[Owner], Children],
        routers: Callable[[str, str], RouterFacts | None],
        probe: WorkerProbe,
        hurry: Callable[[], None],
    ) -> None:
        self._api, self._settings = api, settings
        self._children, self._routers, self._probe, self._hurry = children, routers, probe, hurry

    async def run(self, body: Mapping[str, Any], memory: Memory) -> tuple[float, InferenceDeploymentStatus]:
        """One pass. Returns after how many seconds another one is due though nothing happens, and the status.

        What the API server refuses or does not answer is counted in `memory.failures`, and not raised.
        """
        metadata = body["metadata"]
        owner = Owner(metadata["namespace"], metadata["name"], metadata["uid"])
        facts = Facts(
            name=metadata["name"],
            generation=int(metadata.get("generation", 0)),
            children=self._children(owner),
            router=self._routers(metadata["namespace"], metadata["name"]),
            endpoint=self._settings.router_endpoint,
        )
        due = self._settings.resync_s * random.uniform(0.8, 1.2)
        try:
            wanted = resource_types.parse(dict(body))
        except ArgosyError as error:
            # an older CRD let it in; the children stay as they were when the resource was last right
            text = f"The resource is not valid: {error.message}"
            facts = _with(facts, failure=Failure(Reason.INVALID_SPEC, text), **_as_before(body))
            status, failed = await self._write_status(body, facts, memory)
            memory.failures = 0 if failed is None else memory.failures + 1
            return due if failed is None else _backoff(memory.failures, failed), status
        routable = Counter(p.revision for p in facts.children.pods if p.active and is_routable(p, facts.router))
        intent = plan(wanted, Observed(_may_exist(wanted, facts.children, memory), routable), self._settings.plan)
        workloads = tuple(workload.ref for workload in intent.workloads)
        facts = _with(facts, replicas=wanted.spec.replicas, revision=intent.revision, workloads=workloads)
        outcome = await carry_out(
            self._api, owner, intent, facts.children, memory.made, resync_s=self._settings.resync_s
        )
        refusal = outcome.refusal
        if refusal is not None and (not refusal.passing or memory.failures > 2):
            facts = _with(facts, failure=_failure(refusal))
        facts = _with(facts, children=self._children(owner))
        facts = await self._ask_workers(metadata["namespace"], body, facts, memory)
        status, unwritten = await self._write_status(body, facts, memory)
        model_due = await self._learn_model(body, facts, memory)
        if conditions.is_unsettled(status) and facts.router is not None:
            self._hurry()
        if (failed := refusal or unwritten) is not None:
            # what gets on, if slowly, need not wait longer and longer
            memory.failures = 1 if memory.made.progress else memory.failures + 1
            due = _backoff(memory.failures, failed)
            level = logging.WARNING if memory.failures == 3 else logging.INFO
            log.log(level, "%s/%s: %s; again in %.1f s", metadata["namespace"], facts.name, failed.message, due)
            return due, status
        memory.failures = 0
        asking = _ask_again(facts.children.pods, time.time())
        return min(due, model_due, asking, OWN_ECHO_S if outcome.echo else due), status

    async def _ask_workers(self, namespace: str, body: Mapping[str, Any], facts: Facts, memory: Memory) -> Facts:
        starting = [p for p in facts.children.pods if p.active and not p.ready and p.revision == facts.revision]
        running = [p for p in starting if p.running and p.ip][:_MAX_PROBES]
        states = await asyncio.gather(*(self._probe.status(p.ip) for p in running))
        workers: dict[str, WorkerStatus] = {
            p.name: state for p, state in zip(running, states, strict=True) if state is not None
        }
        stuck = [p for p in starting if p.is_waiting_long(time.time())][:1]
        mounts = {p.name: text for p in stuck if (text := await self._mount_problem(namespace, p))}
        if memory.model_revision != facts.revision:
            written = body.get("status") or {}
            memory.model = None
            if written.get("revision") == facts.revision and written.get("model"):
                memory.model, memory.model_revision = ModelStatus.model_validate(written["model"]), facts.revision
        return _with(facts, workers=workers, mount_problems=mounts, model=memory.model)

    async def _mount_problem(self, namespace: str, pod: PodView) -> str:
        try:
            events = await self._api.events_of(namespace, pod.uid)
        except ApiError:
            return ""
        mounts = [e for e in events if e.get("reason") in ("FailedMount", "FailedAttachVolume")]
        return str(mounts[-1].get("message", "")) if mounts else ""

    async def _learn_model(self, body: Mapping[str, Any], facts: Facts, memory: Memory) -> float:
        """Ask a ready worker once for each revision; when it does not answer, after how long to try again."""
        if memory.model is not None:
            return float("inf")
        ready = [p for p in facts.children.pods if p.active and p.ready and p.ip and p.revision == facts.revision]
        if not ready:
            return float("inf")
        now = time.monotonic()
        if now - memory.model_tried_at >= MODEL_RETRY_S:
            memory.model_tried_at = now
            memory.model = model_status(await self._probe.status(random.choice(ready).ip))
            if memory.model is not None:
                memory.model_revision, memory.model_tried_at = facts.revision, float("-inf")
                await self._write_status(body, _with(facts, model=memory.model), memory)
                return float("inf")
        return MODEL_RETRY_S

    async def _write_status(
        self, body: Mapping[str, Any], facts: Facts, memory: Memory
    ) -> tuple[InferenceDeploymentStatus, ApiError | None]:
        """The status, and why it could not be written."""
        metadata = body["metadata"]
        before = memory.status if memory.status is not None else body.get("status") or {}
        previous = tuple(Condition.model_validate(c) for c in before.get("conditions") or ())
        status = conditions.status_of(facts, previous, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        document = status.model_dump(by_alias=True, exclude_none=True, mode="json")
        if document != before:
            try:
                await self._api.apply_status(metadata, document)
            except ApiError as error:
                memory.status = None  # whether it was written is not known
                return status, error
            memory.status = document
            for event in memory.announcer.announce(metadata, previous, status):
                try:
                    await self._api.create_event(metadata["namespace"], event)
                except ApiError as error:
                    log.debug("%s/%s: event not posted: %s", metadata["namespace"], metadata["name"], error.message)
        return status, None


def _may_exist(wanted: InferenceDeployment, children: Children, memory: Memory) -> frozenset[ChildRef]:
    """Nobody watches Secrets, so an old one counts as there until it was deleted once by this process."""
    secret = ChildRef("v1", "Secret", manifests.redis_secret_name(wanted))
    return frozenset(children.children) | ({secret} - memory.made.absent)


def _as_before(body: Mapping[str, Any]) -> dict[str, Any]:
    """Revision and replicas that the children were last made for."""
    written, spec = body.get("status") or {}, body.get("spec") or {}
    replicas = spec.get("replicas", 1) if isinstance(spec, Mapping) else 1
    known = isinstance(replicas, int) and replicas >= 0
    return {"revision": str(written.get("revision") or ""), "replicas": replicas if known else 1}


def _ask_again(pods: tuple[PodView, ...], now: float) -> float:
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


def _failure(error: ApiError) -> Failure:
    if isinstance(error, NameConflictError):
        advice = "Nothing was changed. Delete or rename what is in the way, or give this resource another name."
        return Failure(Reason.NAME_CONFLICT, f"{error.message}. {advice}")
    if error.status == 403:
        return Failure(Reason.FORBIDDEN, f"The API server refuses: {error.message}")
    if error.passing:
        return Failure(Reason.API_UNAVAILABLE, f"The API server could not do it; trying again: {error.message}")
    return Failure(Reason.APPLY_FAILED, f"The API server refuses: {error.message}")


def _backoff(failures: int, error: ApiError) -> float:
    """Seconds until the next try: at once after a conflict, else growing, with jitter."""
    if error.retry_after_s is not None:
        return min(60.0, error.retry_after_s) + random.uniform(0, 0.5)
    return (_CONFLICT if error.status == 409 and error.passing else _REFUSED).jittered(failures)


def _with(facts: Facts, **changes: Any) -> Facts:
    return replace(facts, **changes)
