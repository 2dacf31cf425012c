"""Settings of the operator: environment variables, read once at the start."""

import json
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from argosy_api import logs, net
from argosy_api.errors import InvalidArgumentError
from argosy_kube.lease import LeaseTerms
from argosy_operator.manifests import Manifest, PlanSettings
from argosy_operator.network import Egress
from argosy_operator.redis_access import Access, check_url

EXTERNAL_METRICS_PORT = 8443


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalMetrics:
    """Where external.metrics.k8s.io is served."""

    namespace: str
    service: str
    """The Service that leads to this port, as the APIService names it."""
    secret: str
    """The Secret, in the same namespace, that all replicas take the certificate from."""
    port: int = EXTERNAL_METRICS_PORT


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the installation decides."""

    plan: PlanSettings = field(default_factory=PlanSettings)
    """ARGOSY_WORKER_IMAGE, ARGOSY_IMAGE_PULL_POLICY, ARGOSY_IMAGE_PULL_SECRETS (comma), ARGOSY_REDIS_URL,
    ARGOSY_REDIS_ACCESS, ARGOSY_WORKER_INGRESS (a JSON list of ingress rules of a NetworkPolicy), ARGOSY_WORKER_EGRESS
    (a JSON object with the lists of peers `dns`, `redis` and `downloads`), ARGOSY_WORKER_ENV (a JSON object of
    strings)."""
    allowed_images: tuple[str, ...] = ()
    """ARGOSY_ALLOWED_IMAGES (comma): what spec.image may be; one that ends in * allows all that begin so. None: any."""
    namespaces: tuple[str, ...] = ()
    """ARGOSY_WATCH_NAMESPACES (comma); none: all namespaces."""
    redis_router_url: str = ""
    """ARGOSY_REDIS_ROUTER_URL: what the routers log in to Redis with; their user is made when it is `argosy-router`."""
    router_status_url: str = ""
    """ARGOSY_ROUTER_STATUS_URL: where router replicas tell whom they can reach; the host is resolved to all of them.
    Empty: a worker counts as routable when its pod is ready."""
    router_endpoint: str = ""
    """ARGOSY_ROUTER_ENDPOINT: where clients send requests, shown in the status of each resource."""
    lease: LeaseTerms | None = None
    """ARGOSY_LEASE, ARGOSY_LEASE_NAMESPACE, ARGOSY_LEASE_SECONDS, ARGOSY_IDENTITY: the lease that this process must
    have to change anything, and who it is. None: it is alone."""
    external_metrics: ExternalMetrics | None = None
    """ARGOSY_EXTERNAL_METRICS_SERVICE (namespace/name), ARGOSY_EXTERNAL_METRICS_SECRET, ARGOSY_EXTERNAL_METRICS_PORT:
    external.metrics.k8s.io for HorizontalPodAutoscalers. None: it is not served."""
    keda_port: int | None = None
    """ARGOSY_KEDA_PORT: the external scaler for KEDA. None: it is not served."""
    host: str = net.EVERYWHERE
    """ARGOSY_HOST: listen address of all servers."""
    metrics_port: int = 8080
    """ARGOSY_METRICS_PORT: /metrics, /healthz and /readyz."""
    resync_s: float = 300.0
    """ARGOSY_RESYNC_SECONDS: how often a resource is looked at although nothing was heard of it."""


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Read the settings.

    Raises:
        InvalidArgumentError: naming the variable.

    """
    defaults, plan = Settings(), PlanSettings()
    get = environment.get
    policy = get("ARGOSY_IMAGE_PULL_POLICY") or plan.image_pull_policy
    if policy not in ("Always", "IfNotPresent", "Never"):
        raise InvalidArgumentError("ARGOSY_IMAGE_PULL_POLICY", f"is {policy!r}; must be Always, IfNotPresent or Never")
    url = get("ARGOSY_ROUTER_STATUS_URL", "")
    if url and not url.startswith("http://"):
        raise InvalidArgumentError("ARGOSY_ROUTER_STATUS_URL", "must begin with http://")
    external, keda = _external_metrics(environment), get("ARGOSY_KEDA_PORT", "")
    if (external or keda) and not url:
        raise InvalidArgumentError("ARGOSY_ROUTER_STATUS_URL", "is not set, and external metrics are what routers tell")
    return Settings(
        plan=PlanSettings(
            worker_image=get("ARGOSY_WORKER_IMAGE") or plan.worker_image,
            image_pull_policy=policy,
            image_pull_secrets=_names(get("ARGOSY_IMAGE_PULL_SECRETS", "")),
            redis_url=check_url(get("ARGOSY_REDIS_URL", ""), "ARGOSY_REDIS_URL"),
            redis_access=_access(get("ARGOSY_REDIS_ACCESS") or plan.redis_access),
            worker_ingress=_worker_ingress(get("ARGOSY_WORKER_INGRESS", "")),
            worker_egress=_worker_egress(get("ARGOSY_WORKER_EGRESS", "")),
            worker_env=_worker_env(get("ARGOSY_WORKER_ENV", ""), get(logs.FORMAT, "")),
        ),
        allowed_images=_names(get("ARGOSY_ALLOWED_IMAGES", "")),
        namespaces=_names(get("ARGOSY_WATCH_NAMESPACES", "")),
        redis_router_url=check_url(get("ARGOSY_REDIS_ROUTER_URL", ""), "ARGOSY_REDIS_ROUTER_URL"),
        router_status_url=url,
        router_endpoint=get("ARGOSY_ROUTER_ENDPOINT", ""),
        lease=_lease(environment),
        external_metrics=external,
        keda_port=int(_number(keda, "ARGOSY_KEDA_PORT", 0, 0, 65535)) if keda else None,
        host=get("ARGOSY_HOST") or defaults.host,
        metrics_port=int(_number(get("ARGOSY_METRICS_PORT"), "ARGOSY_METRICS_PORT", defaults.metrics_port, 0, 65535)),
        resync_s=_number(get("ARGOSY_RESYNC_SECONDS"), "ARGOSY_RESYNC_SECONDS", defaults.resync_s, 1, 86_400),
    )


def image_allowed(image: str | None, allowed: tuple[str, ...]) -> bool:
    """Whether a resource may name this image. The installation's own, which None stands for, is always allowed."""
    if image is None or not allowed:
        return True
    return any(image.startswith(entry[:-1]) if entry.endswith("*") else image == entry for entry in allowed)


def _lease(environment: Mapping[str, str]) -> LeaseTerms | None:
    name = environment.get("ARGOSY_LEASE", "")
    if not name:
        return None
    namespace = environment.get("ARGOSY_LEASE_NAMESPACE", "")
    if not namespace:
        raise InvalidArgumentError("ARGOSY_LEASE_NAMESPACE", "is not set, though ARGOSY_LEASE is")
    seconds = _number(environment.get("ARGOSY_LEASE_SECONDS"), "ARGOSY_LEASE_SECONDS", 15, 3, 3600)
    # without a name it is one that no other process has, so that it waits for the end of its own former lease, too
    identity = environment.get("ARGOSY_IDENTITY") or f"{socket.gethostname()}_{uuid.uuid4()}"
    return LeaseTerms(namespace=namespace, name=name, identity=identity, duration_s=int(seconds))


def _external_metrics(environment: Mapping[str, str]) -> ExternalMetrics | None:
    named = environment.get("ARGOSY_EXTERNAL_METRICS_SERVICE", "")
    if not named:
        return None
    namespace, slash, service = named.partition("/")
    if not (namespace and slash and service):
        raise InvalidArgumentError("ARGOSY_EXTERNAL_METRICS_SERVICE", f"is {named!r}; must be namespace/name")
    variable = "ARGOSY_EXTERNAL_METRICS_SECRET"
    if not (secret := environment.get(variable, "")):
        raise InvalidArgumentError(variable, "is not set, though ARGOSY_EXTERNAL_METRICS_SERVICE is")
    variable = "ARGOSY_EXTERNAL_METRICS_PORT"
    port = int(_number(environment.get(variable), variable, EXTERNAL_METRICS_PORT, 0, 65535))
    return ExternalMetrics(namespace=namespace, service=service, secret=secret, port=port)


def _access(text: str) -> Access:
    if text not in ("perNamespace", "shared"):
        raise InvalidArgumentError("ARGOSY_REDIS_ACCESS", f"is {text!r}; must be perNamespace or shared")
    return cast("Access", text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _number(text: str | None, variable: str, default: float, low: float, high: float) -> float:
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        raise InvalidArgumentError(variable, f"is {text!r}; must be a number") from None
    if not low <= value <= high:
        raise InvalidArgumentError(variable, f"is {text}; must be from {low} to {high}")
    return value


def _worker_ingress(text: str) -> tuple[Manifest, ...] | None:
    if not text:
        return None
    try:
        rules = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidArgumentError("ARGOSY_WORKER_INGRESS", f"is no JSON: {error}") from None
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise InvalidArgumentError("ARGOSY_WORKER_INGRESS", "must be a JSON list of objects")
    return tuple(rules)


def _worker_egress(text: str) -> Egress | None:
    if not text:
        return None
    try:
        peers = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidArgumentError("ARGOSY_WORKER_EGRESS", f"is no JSON: {error}") from None
    if not isinstance(peers, dict) or peers.keys() - {"dns", "redis", "downloads"}:
        raise InvalidArgumentError("ARGOSY_WORKER_EGRESS", "must be a JSON object with dns, redis and downloads")
    if not all(isinstance(found, list) and all(isinstance(peer, dict) for peer in found) for found in peers.values()):
        raise InvalidArgumentError("ARGOSY_WORKER_EGRESS", "must hold lists of objects")
    return Egress(**{name: tuple(found) for name, found in peers.items()})


def _worker_env(text: str, log_format: str) -> tuple[tuple[str, str], ...]:
    """What workers get beside their own; they log as the operator does, unless they are told otherwise."""
    shared = {logs.FORMAT: log_format} if log_format else {}
    try:
        values = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise InvalidArgumentError("ARGOSY_WORKER_ENV", f"is no JSON: {error}") from None
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise InvalidArgumentError("ARGOSY_WORKER_ENV", "must be a JSON object whose values are strings")
    return tuple(sorted({**shared, **values}.items()))
