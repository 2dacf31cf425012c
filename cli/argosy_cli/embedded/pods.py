"""From a Deployment to what a kubelet would run: the pods' names, and each one's command and environment. Pure."""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from argosy_api import labels
from argosy_api.errors import InternalError

Manifest = dict[str, Any]
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # as Kubernetes: no vowels, so no words
_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """One replica, as the API server would know it."""

    name: str
    namespace: str
    manifest: Manifest
    """The pod template of its Deployment: metadata and spec."""

    @property
    def revision(self) -> str:
        """Of the resource, as the plan labelled it."""
        return str(self.manifest["metadata"].get("labels", {}).get(labels.REVISION, ""))

    @property
    def container(self) -> Manifest:
        """The worker's container."""
        containers = self.manifest["spec"]["containers"]
        return next(dict(c) for c in containers if c["name"] == labels.WORKER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a kubelet would wait, in seconds, from the container's probes."""

    startup_s: float
    """Until the process answers at all."""
    liveness_period_s: float
    liveness_failures: int
    grace_s: float
    """Between SIGTERM and SIGKILL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """Command and environment of a container, all references resolved."""

    argv: tuple[str, ...]
    env: dict[str, str]


def pods(deployment: Manifest) -> list[Pod]:
    """The pods of a Deployment: named as Kubernetes would, but the same for the same Deployment."""
    meta, template = deployment["metadata"], deployment["spec"]["template"]
    hashed = _word(repr(template), 9)
    return [
        Pod(
            name=f"{meta['name']}-{hashed}-{_word(f'{hashed}/{index}', 5)}",
            namespace=meta["namespace"],
            manifest=template,
        )
        for index in range(deployment["spec"]["replicas"])
    ]


def limits(pod: Pod) -> Limits:
    """Read the probes; Kubernetes' defaults where they say nothing."""
    startup, liveness = (pod.container.get(f"{kind}Probe", {}) for kind in ("startup", "liveness"))
    return Limits(
        startup_s=startup.get("periodSeconds", 10) * startup.get("failureThreshold", 3),
        liveness_period_s=liveness.get("periodSeconds", 10),
        liveness_failures=liveness.get("failureThreshold", 3),
        grace_s=pod.manifest["spec"].get("terminationGracePeriodSeconds", 30),
    )


def start(
    pod: Pod,
    *,
    python: str,
    overrides: Mapping[str, str],
    secret: Callable[[str, str], str],
    pod_ip: str = "127.0.0.1",
) -> Started:
    """Resolve the container's environment and arguments as a kubelet does.

    Args:
        pod: which one.
        python: interpreter that stands for the image's `python`.
        overrides: environment that this machine decides (ports, folders); wins over the manifest's, and its
            references are not resolved.
        secret: value of (secret's name, key); raises what the user should see.
        pod_ip: for fieldRef status.podIP and status.hostIP.

    Raises:
        InternalError: the manifest uses something that embedded mode does not know.

    """
    fields = _fields(pod, pod_ip)
    env: dict[str, str] = {}
    for entry in pod.container.get("env", []):
        name = entry["name"]
        env[name] = overrides[name] if name in overrides else _value(entry, fields, secret, env)
    env |= overrides
    command = [*pod.container["command"], *pod.container.get("args", [])]
    argv = [expand(part, env) for part in command]
    if argv[0] in ("python", "python3"):
        argv[0] = python
    return Started(argv=tuple(argv), env=env)


def _fields(pod: Pod, pod_ip: str) -> dict[str, str]:
    meta = pod.manifest["metadata"]
    fields = {
        "metadata.name": pod.name,
        "metadata.namespace": pod.namespace,
        "metadata.uid": hashlib.blake2b(f"{pod.namespace}/{pod.name}".encode(), digest_size=16).hexdigest(),
        "status.podIP": pod_ip,
        "status.hostIP": pod_ip,
        "spec.nodeName": "localhost",
        "spec.serviceAccountName": pod.manifest["spec"].get("serviceAccountName", "default"),
    }
    for kind in ("labels", "annotations"):
        fields |= {f"metadata.{kind}['{key}']": value for key, value in meta.get(kind, {}).items()}
    return fields


def _value(
    entry: Manifest, fields: Mapping[str, str], secret: Callable[[str, str], str], env: Mapping[str, str]
) -> str:
    source = entry.get("valueFrom")
    if source is None:
        return expand(entry.get("value", ""), env)
    if "fieldRef" in source:
        path = source["fieldRef"]["fieldPath"]
        if path in fields:
            return fields[path]
        raise InternalError(f"embedded mode does not know the pod field {path} (of variable {entry['name']})")
    if "secretKeyRef" in source:
        return secret(source["secretKeyRef"]["name"], source["secretKeyRef"]["key"])
    raise InternalError(f"embedded mode does not know the source {', '.join(source)} (of variable {entry['name']})")


def expand(text: str, env: Mapping[str, str]) -> str:
    """`$(NAME)` of what was defined before; `$$` is `$`; an unknown name stays as it is (as Kubernetes does it)."""

    def one(match: re.Match[str]) -> str:
        name = match.group(1)
        return "$" if name is None else env.get(name, match.group(0))

    return _REFERENCE.sub(one, text)


def _word(text: str, length: int) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=length).digest()
    return "".join(_ALPHABET[b % len(_ALPHABET)] for b in digest)
