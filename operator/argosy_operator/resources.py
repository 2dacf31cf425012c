"""What is known of all resources by a watch of our own: which exist, in which version, and whose each served name is.

Kopf watches them too, and hands them to the control loops. This watch notices when Kopf's has died silently, and when
a resource has gone of which Kopf does not tell yet.
"""

from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from argosy_api.names import Claim, holders
from argosy_api.resource import GROUP, PLURAL, VERSION
from argosy_kube.reflector import Key, Reflector, Transport
from argosy_operator.metrics import Health
from argosy_operator.observe import epoch_seconds


@dataclass(frozen=True, slots=True)
class _View:
    uid: str
    version: str
    claim: Claim


class Resources:
    """All resources, by a list and watch per namespace, or one for all namespaces."""

    def __init__(
        self,
        health: Health,
        *,
        gone: Callable[[tuple[str, str], str], None],
        changed: Callable[[tuple[str, str]], None],
        came_or_went: Callable[[], None],
    ) -> None:
        """`gone` hears key and uid of what has gone; `changed` whose served name has changed hands."""
        self._health = health
        self._gone, self._changed, self._came_or_went = gone, changed, came_or_went
        self._claims: dict[str, dict[Key, Claim]] = {}
        """By served name and resource."""
        self._reflectors: list[Reflector[_View]] = []
        self._old: set[str] = set()
        """Uids of resources for which somebody may have made something."""

    def reflect(self, transport: Transport, namespaces: Iterable[str]) -> None:
        """Make the reflectors, for all namespaces when none is given; the caller runs their `watches`."""
        root = f"/apis/{GROUP}/{VERSION}"
        paths = [f"{root}/namespaces/{namespace}/{PLURAL}" for namespace in namespaces] or [f"{root}/{PLURAL}"]
        self._reflectors = [Reflector(transport, path, _view, self._on_change) for path in paths]

    def watches(self) -> list[tuple[str, Callable[[], Coroutine[Any, Any, None]]]]:
        """What has to run for ever: path and task of each watch."""
        return [(reflector.path, reflector.run) for reflector in self._reflectors]

    def namespaces(self) -> set[str]:
        """Which have a resource."""
        return {key.namespace for reflector in self._reflectors for key in reflector.objects}

    def is_new(self, uid: str) -> bool:
        """Whether a resource came while this operator was at work, and this is the first question about it.

        Then there is nobody who can have made anything for it.
        """
        if uid in self._old or not self._is_synced():
            return False
        self._old.add(uid)
        return True

    def name_holder(self, namespace: str, name: str, served_name: str) -> str:
        """`namespace/name` of the older resource that has this served name; empty: it is this one's."""
        holder = self._holder(served_name)
        if holder is None or (holder.namespace, holder.name) == (namespace, name):
            return ""
        return f"{holder.namespace}/{holder.name}"

    def _is_synced(self) -> bool:
        return all(reflector.synced.is_set() for reflector in self._reflectors)

    def _holder(self, served_name: str) -> Claim | None:
        return holders(self._claims.get(served_name, {}).values()).get(served_name)

    def _on_change(self, key: Key, before: _View | None, after: _View | None) -> None:
        self._health.expect((key.namespace, key.name), None if after is None else after.version)
        if before is not None and (after is None or after.uid != before.uid):
            self._gone((key.namespace, key.name), before.uid)
            self._old.discard(before.uid)
        if before is None or after is None:
            self._came_or_went()
        if after is not None and not self._is_synced():
            self._old.add(after.uid)
        if before is not None and (after is None or before.claim != after.claim):
            self._claim(before.claim.served_name, key, None)
        if after is not None and (before is None or before.claim != after.claim):
            self._claim(after.claim.served_name, key, after.claim)

    def _claim(self, served_name: str, key: Key, claim: Claim | None) -> None:
        """Enter or remove a resource's claim, and wake all that want the name when it has changed hands."""
        before = self._holder(served_name)
        claims = self._claims.setdefault(served_name, {})
        if claim is None:
            claims.pop(key, None)
        else:
            claims[key] = claim
        if self._holder(served_name) != before:
            for namespace, name in claims:
                self._changed((namespace, name))
        if not claims:
            del self._claims[served_name]


def _view(item: dict[str, Any]) -> _View:
    metadata = item["metadata"]
    # read with care: an older CRD may have let in anything
    spec = item.get("spec")
    model = spec.get("model") if isinstance(spec, dict) else None
    served = model.get("servedName") if isinstance(model, dict) else None
    claim = Claim(
        served_name=served if isinstance(served, str) and served else metadata["name"],
        created_at=epoch_seconds(metadata.get("creationTimestamp")),
        uid=metadata["uid"],
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
    )
    return _View(metadata["uid"], metadata["resourceVersion"], claim)
