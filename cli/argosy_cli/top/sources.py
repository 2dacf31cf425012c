"""Where the figures come from: the runs of this machine, or a cluster. Both ask every router for `/routes`."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self
from urllib.parse import quote, urlencode

from argosy_api import resource as api
from argosy_api.routes import Routes
from argosy_cli.cluster.command import Where, refusal
from argosy_cli.embedded import run
from argosy_cli.embedded.pages import Pages
from argosy_cli.embedded.states import ResourceState
from argosy_cli.errors import CommandError
from argosy_cli.top.figures import Deployment, Key
from argosy_kube.access import Access
from argosy_kube.http import HttpTransport, session
from argosy_kube.reflector import WatchError
from argosy_operator.autoscaling.signals import Told

METRICS_PORT = 8002
_ROUTERS = "app.kubernetes.io/component=router,app.kubernetes.io/part-of=argosy"


@dataclass(frozen=True, slots=True)
class Look:
    """All that was told at one moment."""

    deployments: Sequence[Deployment]
    told: Mapping[Key, Told] = field(default_factory=dict)
    notes: Sequence[str] = ()
    """What is missing, and why."""


class Source(Protocol):
    """Who can be asked again and again."""

    async def look(self) -> Look:
        """Ask.

        Raises:
            CommandError: there is nothing to show, or nobody answers.

        """
        ...


class Here:
    """What `argosy up` runs on this machine."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def look(self) -> Look:
        """All runs of the state folder."""
        states = run.live(self._root)
        if not states:
            raise CommandError(
                f"nothing runs here (state folder {self._root}); start it with `argosy up FILE.yaml`, "
                "or ask a cluster: -A"
            )
        deployments, notes, told = list[Deployment](), list[str](), dict[Key, Told]()
        for state in states:
            deployments += [_local(item) for item in state.resources]
            async with Pages(state.metrics) as pages:
                answer = _parsed(await pages.get("/routes"))
            if answer is None:
                notes.append(f"run {state.run}: its router does not answer at {state.metrics}")
            else:
                told |= _by_resource([answer], 1)
        return Look(deployments, told, notes)


class There:
    """A cluster, with the user's own access. An asynchronous context manager."""

    def __init__(self, access: Access, where: Where) -> None:
        self._http = session(access)
        self._api = HttpTransport(self._http, access)
        self._namespace = where.namespace or access.namespace
        self._place = "" if where.everywhere else f"/namespaces/{quote(self._namespace, safe='')}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def look(self) -> Look:
        """The resources, and of each router that serves them what it tells, through the API server."""
        path = f"/apis/{api.API_VERSION}{self._place}/{api.PLURAL}"
        try:
            bodies = (await self._api.get(path, {}))["items"]
        except WatchError as error:
            raise CommandError(refusal(error, path)) from None
        if not bodies:
            place = f"namespace {self._namespace}" if self._place else "this cluster"
            raise CommandError(f"no {api.KIND} in {place}")
        told, notes = dict[Key, Told](), list[str]()
        for namespace in sorted({_router_namespace(body) for body in bodies} - {""}):
            try:
                told |= await self._routers(namespace, notes)
            except WatchError as error:
                notes.append(f"the routers in {namespace} cannot be asked: {error}")
        if not told and not notes:
            notes.append("no resource has a status.endpoint yet: nobody can be asked what it does")
        return Look([_remote(body) for body in bodies], told, notes)

    async def _routers(self, namespace: str, notes: list[str]) -> dict[Key, Told]:
        place = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods"
        pods = (await self._api.get(f"{place}?{urlencode({'labelSelector': _ROUTERS})}", {}))["items"]
        serving = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and _is_ready(pod)]
        paths = [f"{place}/{pod['metadata']['name']}:{_port(pod)}/proxy/routes" for pod in serving]
        answers = await asyncio.gather(*(self._routes(path) for path in paths))
        good = [answer for answer in answers if isinstance(answer, Routes)]
        if not serving:
            notes.append(f"no router is ready in {namespace}")
        elif len(good) < len(serving):
            why = next(answer for answer in answers if isinstance(answer, str))
            notes.append(f"{len(good)} of {len(serving)} routers in {namespace} answer: {why}")
        return _by_resource(good, len(serving))

    async def _routes(self, path: str) -> Routes | str:
        try:
            return Routes.of(await self._api.get(path, {}))
        except (WatchError, ValueError) as error:
            return str(error)


def _parsed(body: bytes | None) -> Routes | None:
    try:
        return Routes.parse(body or b"")
    except ValueError:
        return None


def _by_resource(answers: Sequence[Routes], asked: int) -> dict[Key, Told]:
    at = time.monotonic()
    by_answer = [{(d.namespace, d.name): d for d in answer.deployments} for answer in answers]
    keys = [key for deployments in by_answer for key in deployments]
    return {key: Told(at, asked, [deployments.get(key) for deployments in by_answer]) for key in keys}


def _local(item: ResourceState) -> Deployment:
    trouble = next((replica for replica in item.replicas if not replica.ready), None)
    reason = "Ready" if trouble is None else trouble.reason or trouble.phase
    return Deployment(
        namespace=item.namespace, name=item.name, ready=item.ready, desired=len(item.replicas), reason=reason
    )


def _remote(body: Mapping[str, Any]) -> Deployment:
    """`status.ready` is of the workers that routers reach: 1/2."""
    status = body.get("status") or {}
    ready, _, desired = str(status.get("ready", "")).partition("/")
    wanted = int(desired) if desired.isdigit() else int((body.get("spec") or {}).get("replicas", 0))
    return Deployment(
        namespace=body["metadata"].get("namespace", "default"),
        name=body["metadata"]["name"],
        ready=int(ready) if ready.isdigit() else 0,
        desired=wanted,
        reason=str(status.get("reason", "")),
    )


def _router_namespace(body: Mapping[str, Any]) -> str:
    """Of the Service in `status.endpoint`: name.namespace.svc:port."""
    parts = str((body.get("status") or {}).get("endpoint", "")).partition(":")[0].split(".")
    return parts[1] if len(parts) > 1 else ""


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _port(pod: Mapping[str, Any]) -> int:
    ports = [port for container in pod["spec"]["containers"] for port in container.get("ports") or ()]
    return next((int(port["containerPort"]) for port in ports if port.get("name") == "metrics"), METRICS_PORT)
