"""Builders of the children of a resource: plain Kubernetes manifests, complete, for server-side apply."""

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from argosy_api import adapters as lists
from argosy_api import labels, process
from argosy_api.resource import DECODE, PREFILL, InferenceDeployment
from argosy_api.worker_spec import Role
from argosy_operator import group_manifests, network, pods
from argosy_operator.heads import adapters_name, common_labels, head, selector
from argosy_operator.network import Egress
from argosy_operator.redis_access import Access, password_of, worker_url

Manifest = dict[str, Any]
REDIS_URL_KEY = "url"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """What the installation decides, the same for all resources."""

    worker_image: str = "localhost/argosy-worker:0.1.0"
    """Image of workers whose resource names none. The chart's own default, for `argosy manifests`."""
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    """Names of Secrets in the resource's namespace."""
    redis_url: str = ""
    """The operator's own Redis, where workers publish what they cache; empty: there is none."""
    redis_access: Access = "perNamespace"
    """Whether the workers of each namespace have a user of their own there, or all use that URL."""
    worker_ingress: tuple[Manifest, ...] | None = None
    """Rules of a NetworkPolicy: who may reach the workers. None: no policy is made."""
    worker_egress: Egress | None = None
    """Where the workers may go, where there is such a policy. None: anywhere."""
    worker_env: tuple[tuple[str, str], ...] = ()
    """Further environment of all workers, such as HF_ENDPOINT or a proxy."""


def child_name(resource: InferenceDeployment) -> str:
    """Name of the workers' Service, ServiceAccount and PodDisruptionBudget: at most 47 characters."""
    return f"{resource.metadata.name}-{labels.WORKER}"


def workload_name(resource: InferenceDeployment, role: str, track: str) -> str:
    """Name of the object that makes the pods of a role and a track."""
    return f"{resource.metadata.name}-{role}" + ("" if track == labels.STABLE else f"-{track}")


def redis_secret_name(resource: InferenceDeployment) -> str:
    """Name of the child Secret that holds the workers' Redis URL. Long, so that it meets nobody else's by accident."""
    return f"{resource.metadata.name}-argosy-redis"


def service_account(resource: InferenceDeployment) -> Manifest:
    """An account of their own, without rights, and whose token is not mounted."""
    return {
        **head("v1", "ServiceAccount", resource, child_name(resource)),
        "automountServiceAccountToken": False,
    }


def redis_secret(resource: InferenceDeployment, settings: PlanSettings) -> Manifest | None:
    """The workers' Redis URL, when it holds a password."""
    url = _redis_url(resource, settings)
    if not password_of(url):
        return None
    return {
        **head("v1", "Secret", resource, redis_secret_name(resource)),
        "type": "Opaque",
        "data": {REDIS_URL_KEY: base64.b64encode(url.encode()).decode()},
    }


def adapters(resource: InferenceDeployment) -> Manifest | None:
    """The list of adapters, which workers follow while they run."""
    if not resource.spec.adapters:
        return None
    head_of = head("v1", "ConfigMap", resource, adapters_name(resource))
    return {**head_of, "data": {lists.FILE: lists.to_json(resource.spec.adapters)}}


def service(resource: InferenceDeployment) -> Manifest:
    """Headless: it exists for its EndpointSlices, which routers watch."""
    ports = (("grpc", labels.GRPC_PORT), ("metrics", labels.METRICS_PORT))
    return {
        **head("v1", "Service", resource, child_name(resource)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": False,
            "selector": selector(resource),
            "ports": [{"name": name, "port": port, "targetPort": name, "protocol": "TCP"} for name, port in ports],
        },
    }


def disruption_budget(resource: InferenceDeployment) -> Manifest:
    """Limits what node drains may take at once. (With one pod a group is gone: then the others may go, too.)"""
    name = resource.metadata.name
    return {
        **head("policy/v1", "PodDisruptionBudget", resource, child_name(resource)),
        "spec": {
            "maxUnavailable": resource.spec.disruption.max_unavailable,
            "selector": {"matchLabels": labels.group_selector(name) if is_grouped(resource) else selector(resource)},
            # a worker that is not ready serves nobody: it must not keep a node from being drained
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def network_policy(resource: InferenceDeployment, settings: PlanSettings) -> Manifest | None:
    """Limits who may talk to the workers, who have no other lock, and what they may talk to."""
    if settings.worker_ingress is None:
        return None
    grouped = is_grouped(resource)
    out: Manifest = {}
    if settings.worker_egress is not None:
        url, env = _redis_url(resource, settings), dict(settings.worker_env)
        out["egress"] = network.rules_out(resource, settings.worker_egress, redis_url=url, env=env, grouped=grouped)
    return {
        **head("networking.k8s.io/v1", "NetworkPolicy", resource, child_name(resource)),
        "spec": {
            # in groups or not: the one kind may still be there when the resource asks for the other
            "podSelector": {"matchLabels": {labels.NAME: resource.metadata.name}},
            "policyTypes": ["Ingress", *(["Egress"] if out else [])],
            "ingress": network.rules_in(resource, settings.worker_ingress, grouped=grouped),
            **out,
        },
    }


def is_grouped(resource: InferenceDeployment) -> bool:
    """Whether a worker of the resource is a group of pods."""
    return resource.spec.arrangement.pods > 1


def deployment(
    resource: InferenceDeployment, *, role: str, track: str, replicas: int, revision_hash: str, template: Manifest
) -> Manifest:
    """The workers of a role and a track; `template` is that of the revision."""
    rollout = resource.spec.rollout
    chosen = labels.workload_selector(resource.metadata.name, role, track)
    begin = head("apps/v1", "Deployment", resource, workload_name(resource, role, track))
    begin["metadata"]["labels"][labels.REVISION] = revision_hash
    rolling: Manifest | None = {"maxSurge": rollout.max_surge, "maxUnavailable": rollout.max_unavailable}
    if rollout.strategy == "Recreate":
        rolling = None  # said, not left out: the API server keeps what it had filled in before, and refuses both
    labelled = {**template["metadata"]["labels"], **chosen}
    return {
        **begin,
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": rollout.progress_deadline_seconds,
            "selector": {"matchLabels": chosen},
            "strategy": {
                "type": "Recreate" if rolling is None else "RollingUpdate",
                "rollingUpdate": rolling,
            },
            "template": {**template, "metadata": {**template["metadata"], "labels": labelled}},
        },
    }


def pod_template(resource: InferenceDeployment, settings: PlanSettings, *, role: str, revision_hash: str) -> Manifest:
    """Of the workers of a role, on the stable track; on another one only that label differs."""
    marks, spec = _pods(resource, settings, role, revision_hash)
    return {"metadata": {"labels": {**common_labels(resource), **marks, labels.REVISION: revision_hash}}, "spec": spec}


def revision_head(resource: InferenceDeployment, revision_hash: str) -> Manifest:
    """What the ControllerRevision of a revision begins with."""
    return head("apps/v1", "ControllerRevision", resource, f"{resource.metadata.name}-{revision_hash}")


def revision(resource: InferenceDeployment, settings: PlanSettings, *, roles: tuple[str, ...]) -> str:
    """Hash of what the worker pods are made of, of all roles: 10 hexadecimal digits.

    The Redis URL counts although pods refer to it by name: they read it when they start, so a new password must
    replace them.
    """
    made_of: list[Any] = [common_labels(resource), _redis_url(resource, settings)]
    for role in roles:
        made_of += _pods(resource, settings, role, "")
    if resource.spec.rollout.restart:
        made_of.append(resource.spec.rollout.restart)
    text = json.dumps(made_of, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


def worker_role(role: str) -> Role:
    """What a worker is told of the role of its pod: nothing where it does everything."""
    return {PREFILL: "prefill", DECODE: "decode"}.get(role, "")  # type: ignore[return-value]  # these are roles


def _pods(
    resource: InferenceDeployment, settings: PlanSettings, role: str, revision_hash: str
) -> tuple[dict[str, str], Manifest]:
    """Labels of the pods of a role, and their spec."""
    chosen = labels.workload_selector(resource.metadata.name, role, labels.STABLE)
    spec = _pod_spec(resource, settings, chosen, revision_hash)
    if is_grouped(resource):
        return chosen | group_manifests.marks(resource), group_manifests.in_group(resource, spec)
    return chosen, spec


def _pod_spec(
    resource: InferenceDeployment, settings: PlanSettings, chosen: dict[str, str], revision_hash: str
) -> Manifest:
    url = _redis_url(resource, settings)
    secret = redis_secret_name(resource) if password_of(url) else None
    return pods.pod_spec(
        resource,
        revision=revision_hash,
        role=worker_role(chosen[labels.ROLE]),
        service_account=child_name(resource),
        selector={k: v for k, v in chosen.items() if k != labels.TRACK},
        image=resource.spec.image or settings.worker_image,
        image_pull_policy=settings.image_pull_policy,
        image_pull_secrets=settings.image_pull_secrets,
        redis=_redis_env(url, secret),
        extra_env=settings.worker_env,
    )


def _redis_env(url: str, secret: str | None) -> list[Manifest]:
    if not url:
        return []
    if secret is None:
        return [{"name": process.REDIS_URL, "value": pods.literal(url)}]
    reference = {"name": secret, "key": REDIS_URL_KEY}
    return [{"name": process.REDIS_URL, "valueFrom": {"secretKeyRef": reference}}]


def _redis_url(resource: InferenceDeployment, settings: PlanSettings) -> str:
    return worker_url(settings.redis_url, settings.redis_access, resource.metadata.namespace)
