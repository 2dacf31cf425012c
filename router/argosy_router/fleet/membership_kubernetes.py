"""Who is there, in a cluster: from InferenceDeployments and the EndpointSlices of their workers.

These two kinds are all that a router may read. While the API server is away the last view stays; a worker that has
died meanwhile is found out by calling it.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from argosy_api import labels, limits, net
from argosy_api.ending import end
from argosy_api.membership import Canary, Deployment, Membership, RoutingPolicy, Worker
from argosy_api.process import WATCH_NAMESPACES
from argosy_api.resource import GROUP, PLURAL, VERSION, AutoscalingSpec, RoutingSpec
from argosy_kube import access as kube_access
from argosy_kube import http as kube_http
from argosy_kube.reflector import Key, Reflector
from argosy_router.tasks import keep_running

log = logging.getLogger(__name__)

GATHER_S = 0.005
"""Changes that come together become one view."""
_MAX_REASON = 64


@dataclass(frozen=True, slots=True)
class DeploymentView:
    """What a router must know of a resource."""

    served_name: str
    policy: RoutingPolicy
    message: str
    created_at: float = 0.0
    """Seconds since the epoch."""
    uid: str = ""
    fetch_blocks: bool = True
    share_cache: bool = False
    canary: Canary | None = None
    adapters: tuple[str, ...] = ()
    """Names of those that its workers are to have."""
    hold_s: float = 0.0
    """How long a request that finds no worker waits for one."""

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> "DeploymentView":
        """Read a resource, also one that this version does not wholly understand."""
        meta, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
        name, routing = meta["name"], spec.get("routing") or {}
        try:
            policy = RoutingPolicy(routing.get("policy", RoutingPolicy.KV_AWARE))
        except ValueError:
            log.warning("%s: unknown routing policy; %s is used", name, RoutingPolicy.KV_AWARE)
            policy = RoutingPolicy.KV_AWARE
        reason = str(status.get("reason") or "")[:_MAX_REASON]
        # the reason only: the sentence beside it names pods and nodes, which are no client's business
        return cls(
            served_name=str((spec.get("model") or {}).get("servedName") or name),
            policy=policy,
            message="" if reason == "Ready" else reason,
            created_at=datetime.fromisoformat(meta["creationTimestamp"]).timestamp(),
            uid=str(meta["uid"]),
            fetch_blocks=routing.get("fetchBlocks") is not False,
            share_cache=routing.get("cacheSharing") == "all",
            canary=_canary(status.get("canary")),
            adapters=_adapters(spec),
            hold_s=_hold_s(spec),
        )


def _adapters(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of adapters. Read with care: another CRD may have let in anything."""
    listed = spec.get("adapters")
    found = listed if isinstance(listed, list) else []
    names = [one.get("name") for one in found if isinstance(one, Mapping)]
    return tuple(name for name in names if isinstance(name, str))[: limits.MAX_ADAPTERS]


def _hold_s(spec: Mapping[str, Any]) -> float:
    """As the resource says, if it may have no worker at all. Read with care: another CRD may have let in anything."""
    for section, kind in (("autoscaling", AutoscalingSpec), ("routing", RoutingSpec)):
        try:
            if seconds := kind.model_validate(spec.get(section)).hold_seconds:
                return float(seconds)
        except ValidationError:
            continue
    return 0.0


@dataclass(frozen=True, slots=True)
class SliceView:
    """The workers in one EndpointSlice."""

    owner: str
    workers: tuple[Worker, ...]

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> "SliceView":
        """Read an EndpointSlice (discovery.k8s.io/v1)."""
        owner = body["metadata"]["labels"][labels.NAME]
        port = next((p.get("port") for p in body.get("ports") or () if p.get("name") == "grpc"), None)
        if port is None:
            return cls(owner, ())
        workers = (_worker(endpoint, int(port)) for endpoint in body.get("endpoints") or ())
        return cls(owner, tuple(worker for worker in workers if worker is not None))


def _canary(told: Any) -> Canary | None:
    """What the operator says of it; nothing where that can't be understood."""
    if not isinstance(told, Mapping):
        return None
    revision, weight = told.get("revision"), told.get("weight")
    if not isinstance(revision, str) or not isinstance(weight, int) or not 0 <= weight <= 100:
        return None
    return Canary(revision=revision, weight=weight)


def _worker(endpoint: Mapping[str, Any], port: int) -> Worker | None:
    target, addresses = endpoint.get("targetRef") or {}, endpoint.get("addresses") or ()
    if target.get("kind") != "Pod" or not target.get("name") or not addresses:
        return None
    conditions = endpoint.get("conditions") or {}
    # unset counts as ready: that is what the API says of it
    terminating = bool(conditions.get("terminating"))
    return Worker(
        worker_id=target["name"],
        address=net.address(addresses[0], port),
        serving=conditions.get("ready") is not False and not terminating,
        terminating=terminating,
    )


def merge(deployments: Mapping[Key, DeploymentView], slices: Mapping[Key, SliceView]) -> Membership:
    """One view of all; workers of resources that are not known (yet, or any more) are left out."""
    workers: dict[Key, dict[str, Worker]] = {}
    for key, view in sorted(slices.items()):
        mine = workers.setdefault(Key(key.namespace, view.owner), {})
        for worker in view.workers:
            # an endpoint that moves between slices, or has two addresses, is there twice
            if worker.worker_id not in mine or (worker.serving and not mine[worker.worker_id].serving):
                mine[worker.worker_id] = worker
    return Membership(
        tuple(
            Deployment(
                namespace=key.namespace,
                name=key.name,
                served_name=view.served_name,
                policy=view.policy,
                fetch_blocks=view.fetch_blocks,
                share_cache=view.share_cache,
                workers=tuple(worker for _, worker in sorted(workers.get(key, {}).items())),
                message=view.message,
                created_at=view.created_at,
                uid=view.uid,
                canary=view.canary,
                adapters=view.adapters,
                hold_s=view.hold_s,
            )
            for key, view in sorted(deployments.items())
        )
    )


class KubernetesSource:
    """A `MembershipSource` on an API server."""

    def __init__(self, access: kube_access.Access, namespaces: Iterable[str] = ()) -> None:
        """Without namespaces: all of them."""
        self._access, self._namespaces = access, tuple(namespaces)
        self._reflectors: list[Reflector[Any]] = []

    @property
    def problem(self) -> str:
        """What one of the watches says."""
        return next((r.problem for r in self._reflectors if r.problem), "")

    async def views(self) -> AsyncIterator[Membership]:
        """The first when everything was listed once, then one for each change."""
        changed = asyncio.Event()

        def on_change(*_: object) -> None:
            changed.set()

        async with kube_http.session(self._access) as http:
            transport = kube_http.HttpTransport(http, self._access)
            deployments = [
                Reflector(transport, path, DeploymentView.from_body, on_change)
                for path in self._paths(f"/apis/{GROUP}/{VERSION}", PLURAL)
            ]
            slices = [
                Reflector(transport, path, SliceView.from_body, on_change, label_selector=labels.NAME)
                for path in self._paths("/apis/discovery.k8s.io/v1", "endpointslices")
            ]
            self._reflectors = [*deployments, *slices]
            tasks = [
                asyncio.create_task(keep_running("a watch of the API server", reflector.run))
                for reflector in self._reflectors
            ]
            try:
                for reflector in self._reflectors:
                    await reflector.synced.wait()
                last: Membership | None = None
                while True:
                    changed.clear()
                    view = merge(
                        {k: v for reflector in deployments for k, v in reflector.objects.items()},
                        {k: v for reflector in slices for k, v in reflector.objects.items()},
                    )
                    if view != last:
                        last = view
                        yield view
                    await changed.wait()
                    await asyncio.sleep(GATHER_S)
            finally:
                await end(*tasks)

    def _paths(self, root: str, plural: str) -> list[str]:
        return [f"{root}/namespaces/{namespace}/{plural}" for namespace in self._namespaces] or [f"{root}/{plural}"]


def source(environment: Mapping[str, str] = os.environ) -> KubernetesSource:
    """The cluster of this pod or of KUBECONFIG; ARGOSY_WATCH_NAMESPACES (comma) limits what is watched.

    Raises:
        InvalidArgumentError: no cluster to be found.

    """
    names = environment.get(WATCH_NAMESPACES, "").split(",")
    return KubernetesSource(kube_access.find(environment), [name.strip() for name in names if name.strip()])
