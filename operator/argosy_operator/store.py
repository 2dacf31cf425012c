"""What is known of the children of all resources: reflectors fill it, passes read it."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

from argosy_api import labels
from argosy_kube.reflector import Key, Reflector, Transport
from argosy_operator.observe import Children, ChildView, PodView
from argosy_operator.plan import ChildRef, Owner

SELECTOR = f"app.kubernetes.io/managed-by=argosy-operator,{labels.NAME}"
WATCHED = (
    ("v1", "Pod", "pods"),
    ("v1", "ServiceAccount", "serviceaccounts"),
    ("v1", "Service", "services"),
    ("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    ("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
    ("apps/v1", "Deployment", "deployments"),
    ("apps/v1", "StatefulSet", "statefulsets"),
    ("apps/v1", "ControllerRevision", "controllerrevisions"),
    ("batch/v1", "Job", "jobs"),
)
"""Not Secrets: that would be a right to read all of them."""


@dataclass(frozen=True, slots=True)
class _Owned:
    """A view, and the name of the resource that it belongs to."""

    owner: str
    view: PodView | ChildView


@dataclass(slots=True)
class _Entry:
    pods: dict[str, PodView] = field(default_factory=dict)
    children: dict[ChildRef, ChildView] = field(default_factory=dict)


class ChildStore:
    """Children by resource."""

    def __init__(self, changed: Callable[[str, str], None], pod_gone: Callable[[str, str], None]) -> None:
        """Both are called with the namespace and the name of the resource."""
        self._entries: dict[Key, _Entry] = {}
        self._changed, self._pod_gone = changed, pod_gone
        self._reflectors: list[Reflector[_Owned]] = []

    def reflect(self, transport: Transport, namespaces: Iterable[str]) -> None:
        """Make the reflectors, for all namespaces when none is given; the caller runs their `watches`."""
        for api_version, kind, plural in WATCHED:
            root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
            paths = [f"{root}/namespaces/{namespace}/{plural}" for namespace in namespaces] or [f"{root}/{plural}"]
            for path in paths:
                self._reflectors.append(
                    Reflector(transport, path, _converter(api_version, kind), self._on_change, label_selector=SELECTOR)
                )

    def watches(self) -> list[tuple[str, Callable[[], Coroutine[Any, Any, None]]]]:
        """What has to run for ever: path and task of each watch."""
        return [(reflector.path, reflector.run) for reflector in self._reflectors]

    async def synced(self) -> None:
        """Wait until everything was listed once: before that, what is not here may well exist."""
        await asyncio.gather(*(reflector.synced.wait() for reflector in self._reflectors))

    def of(self, owner: Owner) -> Children:
        """What is known of one resource's children, oldest pod first.

        Labels find an object, and only its owner reference makes it a child: labels are copied easily.
        """
        entry = self._entries.get(Key(owner.namespace, owner.name))
        if entry is None:
            return Children()
        pods = sorted(entry.pods.values(), key=lambda pod: (pod.created_at, pod.name))
        return Children(
            tuple(pod for pod in pods if not pod.rank),
            {r: child for r, child in entry.children.items() if child.owner == owner.uid},
            tuple(pod for pod in pods if pod.rank),
        )

    def has_pods(self, namespace: str, name: str) -> bool:
        """Whether a resource of this name, there or gone, still has worker pods."""
        entry = self._entries.get(Key(namespace, name))
        return entry is not None and bool(entry.pods)

    def _on_change(self, key: Key, before: _Owned | None, after: _Owned | None) -> None:
        if before is not None and (after is None or after.owner != before.owner):
            self._remove(Key(key.namespace, before.owner), before.view)
        if after is not None:
            entry = self._entries.setdefault(Key(key.namespace, after.owner), _Entry())
            if isinstance(after.view, PodView):
                entry.pods[after.view.name] = after.view
            else:
                entry.children[after.view.ref] = after.view
            self._changed(key.namespace, after.owner)

    def _remove(self, owner: Key, view: PodView | ChildView) -> None:
        entry = self._entries.get(owner)
        if entry is None:
            return
        if isinstance(view, PodView):
            entry.pods.pop(view.name, None)
        else:
            entry.children.pop(view.ref, None)
        if not entry.pods and not entry.children:
            del self._entries[owner]
        self._changed(*owner)
        if isinstance(view, PodView):
            self._pod_gone(*owner)


def _converter(api_version: str, kind: str) -> Callable[[dict[str, Any]], _Owned]:
    def convert(body: dict[str, Any]) -> _Owned:
        view = PodView.from_body(body) if kind == "Pod" else ChildView.from_body(body, api_version, kind)
        return _Owned(body["metadata"]["labels"][labels.NAME], view)

    return convert
