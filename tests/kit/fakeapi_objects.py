"""Objects of the fake API server, and the pure functions that patch them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

Object = dict[str, Any]


class ApiError(Exception):
    """Answered as a Kubernetes ``Status`` object."""

    def __init__(self, code: int, reason: str, message: str = "", retry_after_s: int | None = None) -> None:
        super().__init__(message or reason)
        self.code, self.reason, self.message, self.retry_after_s = code, reason, message or reason, retry_after_s

    def body(self) -> Object:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "code": self.code,
            "reason": self.reason,
            "message": self.message,
        }


class Gvr(NamedTuple):
    group: str
    version: str
    plural: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


class Key(NamedTuple):
    gvr: Gvr
    namespace: str | None
    name: str


class Event(NamedTuple):
    version: int
    type: str
    gvr: Gvr
    object: Object


@dataclass(frozen=True, slots=True)
class Resource:
    kind: str
    namespaced: bool
    subresources: frozenset[str]


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def clone(value: Any) -> Any:
    """A deep copy of what JSON can hold; `copy.deepcopy` takes several times as long."""
    if isinstance(value, dict):
        return {name: clone(item) for name, item in value.items()}
    return [clone(item) for item in value] if isinstance(value, list) else value


def merge(base: Any, patch: Any) -> Any:
    """RFC 7386 merge patch."""
    if not isinstance(patch, dict):
        return patch
    out = dict(base) if isinstance(base, dict) else {}
    for name, value in patch.items():
        if value is None:
            out.pop(name, None)
        else:
            out[name] = merge(out.get(name), value)
    return out


def drop_image_volumes(pod: Object) -> None:
    """With their mounts, and without a word: what an API server does where the feature gate ImageVolume is off."""
    gone = {volume["name"] for volume in pod.get("volumes", ()) if "image" in volume}
    pod["volumes"] = [volume for volume in pod.get("volumes", ()) if volume["name"] not in gone]
    for container in pod.get("containers", ()):
        container["volumeMounts"] = [m for m in container.get("volumeMounts", ()) if m["name"] not in gone]


def drop_owned(current: Object, previous: Object, intent: Object) -> Object:
    """Remove the fields this manager applied before and no longer sends."""
    for name, value in previous.items():
        if name in {"apiVersion", "kind"}:
            continue
        if name not in intent:
            current.pop(name, None)
        elif isinstance(value, dict) and isinstance(intent[name], dict) and isinstance(current.get(name), dict):
            current[name] = drop_owned(current[name], value, intent[name])
        elif isinstance(current.get(name), list) and (by := merge_key(value)) and merge_key(intent[name]) == by:
            gone = {item[by] for item in value} - {item[by] for item in intent[name]}
            current[name] = [item for item in current[name] if item.get(by) not in gone]
    return current


def apply(current: Object, intent: Object) -> Object:
    for name, value in intent.items():
        present = current.get(name)
        if isinstance(value, dict):
            current[name] = apply(present if isinstance(present, dict) else {}, value)
        elif isinstance(present, list) and (by := merge_key(value)):
            by_key = {item.get(by): item for item in present}
            for item in value:
                by_key[item[by]] = apply(by_key.get(item[by], {}), item)
            current[name] = list(by_key.values())
        else:
            current[name] = value
    return current


def merge_key(value: Any) -> str | None:
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        return None
    return next((name for name in ("uid", "name", "type") if all(name in item for item in value)), None)


def scale_view(obj: Object) -> Object:
    meta = {name: obj["metadata"].get(name) for name in ("name", "namespace", "uid", "resourceVersion")}
    status = {
        "replicas": obj.get("status", {}).get("replicas", 0),
        "selector": obj.get("status", {}).get("selector", ""),
    }
    spec = {"replicas": obj.get("spec", {}).get("replicas", 0)}
    return {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta, "spec": spec, "status": status}
