"""The worker pod: command, environment, probes, volumes and security of one replica."""

from typing import Any

from argosy_api import adapters, labels, net, process
from argosy_api.resource import InferenceDeployment, InferenceDeploymentSpec
from argosy_api.worker_spec import Role, WorkerSpec
from argosy_operator.heads import adapters_name

Manifest = dict[str, Any]
USER = 65532
CACHE_PATH = "/var/cache/argosy"
TERMINATION_LOG = "/dev/termination-log"
DEFAULT_CACHE_SIZE = "20Gi"
PRE_STOP_S = 2
"""A terminating pod goes on taking requests this long: the time that the news needs to reach every router."""
SLACK_S = 10
"""Time beyond the drain to close connections and leave, before the kubelet kills."""


def pod_spec(
    resource: InferenceDeployment,
    *,
    revision: str,
    role: Role,
    service_account: str,
    selector: dict[str, str],
    image: str,
    image_pull_policy: str,
    image_pull_secrets: tuple[str, ...],
    redis: list[Manifest],
    extra_env: tuple[tuple[str, str], ...],
) -> Manifest:
    """Spec of a worker pod (core/v1 PodSpec). `redis` is the environment entry with its URL, if any."""
    spec = resource.spec
    volumes, mounts = _volumes(resource)
    pod: Manifest = {
        "serviceAccountName": service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": spec.drain.timeout_seconds + PRE_STOP_S + SLACK_S,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": spec.placement.spread_over,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": selector},
                # pods of the revision that is being replaced must not push the new ones aside
                "matchLabelKeys": ["pod-template-hash"],
            }
        ],
        # a pod is ready, and another one goes in its place, only when routers reach the worker (`gate`)
        "readinessGates": [{"conditionType": labels.ROUTABLE}],
        "containers": [
            {
                "name": labels.WORKER,
                "image": image,
                "imagePullPolicy": image_pull_policy,
                "command": ["python", "-m", "argosy_worker"],
                "args": [literal(WorkerSpec.of(resource, revision, role).argument())],
                "env": _environment(resource, redis, extra_env),
                "ports": [
                    {"name": "grpc", "containerPort": labels.GRPC_PORT, "protocol": "TCP"},
                    {"name": "metrics", "containerPort": labels.METRICS_PORT, "protocol": "TCP"},
                ],
                "resources": _resources(spec),
                "volumeMounts": mounts,
                **_probes(),
                "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_S}}},
                "terminationMessagePath": TERMINATION_LOG,
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "runAsNonRoot": True,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
        "volumes": volumes,
    }
    return pod | _placement(spec) | _pull_secrets(image_pull_secrets)


def _environment(
    resource: InferenceDeployment, redis: list[Manifest], extra: tuple[tuple[str, str], ...]
) -> list[Manifest]:
    model = resource.spec.model
    fixed = {
        process.DEPLOYMENT: resource.metadata.name,
        process.HOST: net.EVERYWHERE,
        process.GRPC_PORT: str(labels.GRPC_PORT),
        process.METRICS_PORT: str(labels.METRICS_PORT),
        process.TERMINATION_LOG: TERMINATION_LOG,
        "HOME": "/tmp",  # noqa: S108 - an emptyDir of the pod's own: the root is read-only
    }
    if any(uri.scheme == "hf" for uri in resource.model_uris):
        fixed[process.MODEL_CACHE] = CACHE_PATH
    if (local := resource.spec.arrangement.local) > 1:
        fixed[process.LOCAL_RANKS] = str(local)
    if _takes_adapters(resource):
        fixed[process.ADAPTERS] = f"{labels.ADAPTERS_PATH}/{adapters.FILE}"
    env: list[Manifest] = [
        {"name": process.WORKER_ID, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": process.NAMESPACE, "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        *({"name": name, "value": literal(value)} for name, value in fixed.items()),
        *redis,
    ]
    if model.token_secret_ref is not None:
        reference = {"name": model.token_secret_ref.name, "key": model.token_secret_ref.key}
        env.append({"name": process.HF_TOKEN, "valueFrom": {"secretKeyRef": reference}})
    taken = {entry["name"] for entry in env}
    # names are unique keys of this list: a setting of the installation never overrides a worker's identity
    return env + [{"name": name, "value": literal(value)} for name, value in dict(extra).items() if name not in taken]


def literal(text: str) -> str:
    """The text as an argument or the value of a variable: a kubelet gives it to the process as it is.

    It replaces `$(NAME)` by the value of that variable, which may come from a Secret: whoever may write a resource
    must not come to read one. `$$` stands for `$`.
    """
    return text.replace("$", "$$")


def _resources(spec: InferenceDeploymentSpec) -> Manifest:
    requests: Manifest = {"cpu": str(spec.resources.cpu), "memory": str(spec.resources.memory)}
    limits: Manifest = {"memory": str(spec.resources.memory)}
    if spec.resources.gpu is not None:
        requests[spec.resources.gpu.resource_name] = str(spec.resources.gpu.count)
        limits[spec.resources.gpu.resource_name] = str(spec.resources.gpu.count)
    return {"requests": requests, "limits": limits}


def _volumes(resource: InferenceDeployment) -> tuple[list[Manifest], list[Manifest]]:
    spec = resource.spec
    volumes: list[Manifest] = [{"name": "tmp", "emptyDir": {}}]
    mounts: list[Manifest] = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - in the pod
    if spec.arrangement.local > 1:
        # what NCCL passes between processes of a pod lies there, and a container has 64 MiB of it
        volumes.append({"name": "shared", "emptyDir": {"medium": "Memory"}})
        mounts.append({"name": "shared", "mountPath": "/dev/shm"})  # noqa: S108 - in the pod
    if _takes_adapters(resource):
        # always, and optional: the first adapter must not change what the pods are made of
        volumes.append({"name": "adapters", "configMap": {"name": adapters_name(resource), "optional": True}})
        mounts.append({"name": "adapters", "mountPath": labels.ADAPTERS_PATH, "readOnly": True})
    claims = dict.fromkeys(uri.place for uri in resource.model_uris if uri.scheme == "pvc")
    for name, claim in zip(("model", "draft-model"), claims, strict=False):
        source = {"claimName": claim, "readOnly": True}
        volumes.append({"name": name, "persistentVolumeClaim": source})
        mounts.append({"name": name, "mountPath": f"{process.MODELS_PATH}/{claim}", "readOnly": True})
    images = dict.fromkeys((uri.image, uri.folder) for uri in resource.model_uris if uri.scheme == "oci")
    for name, (image, folder) in zip(("model-image", "draft-model-image"), images, strict=False):
        # pulled with the pod's secrets, and kept on the node as any image
        volumes.append({"name": name, "image": {"reference": image}})
        mounts.append({"name": name, "mountPath": f"{process.IMAGES_PATH}/{folder}", "readOnly": True})
    if any(uri.scheme == "hf" for uri in resource.model_uris):
        cache = spec.model_cache
        if cache is not None and cache.type == "pvc":
            volumes.append({"name": "cache", "persistentVolumeClaim": {"claimName": cache.claim_name}})
        else:
            size = cache.size if cache is not None and cache.size is not None else DEFAULT_CACHE_SIZE
            volumes.append({"name": "cache", "emptyDir": {"sizeLimit": str(size)}})
        mounts.append({"name": "cache", "mountPath": CACHE_PATH})
    return volumes, mounts


def _takes_adapters(resource: InferenceDeployment) -> bool:
    return resource.spec.parallelism.ranks == 1


def _probes() -> Manifest:
    return {
        # only until the process answers: a download may then take as long as it takes
        "startupProbe": {"httpGet": _alive(), "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 300},
        "readinessProbe": {
            "grpc": {"port": labels.GRPC_PORT, "service": ""},
            "periodSeconds": 2,
            "timeoutSeconds": 5,
            "failureThreshold": 2,
        },
        "livenessProbe": {"httpGet": _alive(), "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
    }


def _alive() -> Manifest:
    return {"path": "/healthz", "port": "metrics", "scheme": "HTTP"}


def _placement(spec: InferenceDeploymentSpec) -> Manifest:
    placement = spec.placement
    out: Manifest = {}
    if placement.node_selector:
        out["nodeSelector"] = dict(placement.node_selector)
    if placement.tolerations:
        out["tolerations"] = [t.model_dump(by_alias=True, exclude_none=True) for t in placement.tolerations]
    if placement.priority_class_name is not None:
        out["priorityClassName"] = placement.priority_class_name
    if placement.runtime_class_name is not None:
        out["runtimeClassName"] = placement.runtime_class_name
    return out


def _pull_secrets(names: tuple[str, ...]) -> Manifest:
    return {"imagePullSecrets": [{"name": name} for name in names]} if names else {}
