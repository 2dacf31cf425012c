"""The worker pod: command, environment, probes, volumes and security of one replica."""

from typing import Any
from urllib.parse import urlsplit

from argosy_api import labels, quantity
from argosy_api.resource import InferenceDeployment, InferenceDeploymentSpec

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
    volumes, mounts = _volumes(spec)
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
        "containers": [
            {
                "name": labels.WORKER,
                "image": image,
                "imagePullPolicy": image_pull_policy,
                "command": ["python", "-m", "argosy_worker"],
                "args": worker_args(resource, revision),
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


def worker_args(resource: InferenceDeployment, revision: str) -> list[str]:
    """Command line of the worker: everything about the model and the engine that the resource says."""
    spec, engine = resource.spec, resource.spec.engine
    memory = 0 if engine.kv_cache_memory is None else quantity.parse_bytes(engine.kv_cache_memory)
    pairs: list[tuple[str, str | int | float]] = [
        ("--model-uri", spec.model.uri),
        ("--served-name", resource.served_name),
        ("--revision", revision),
        ("--device", engine.device),
        ("--compute", engine.compute),
        ("--block-size", engine.block_size),
        ("--max-batch-tokens", engine.max_batch_tokens),
        ("--max-running", engine.max_running),
        ("--kv-cache-bytes", memory),
        ("--queue-order", engine.queue_order),
        ("--queue-ageing", engine.queue_ageing),
        ("--drain-seconds", spec.drain.timeout_seconds),
        ("--threads", engine.threads or 0),
    ]
    if spec.model.max_model_len is not None:
        pairs.append(("--max-model-len", spec.model.max_model_len))
    # one argument each: a value can then never be taken for an option
    return [literal(f"{option}={value}") for option, value in pairs] + [
        "--prefix-caching" if engine.prefix_caching else "--no-prefix-caching"
    ]


def _environment(
    resource: InferenceDeployment, redis: list[Manifest], extra: tuple[tuple[str, str], ...]
) -> list[Manifest]:
    model = resource.spec.model
    fixed = {
        "ARGOSY_DEPLOYMENT": resource.metadata.name,
        "ARGOSY_HOST": "0.0.0.0",
        "ARGOSY_GRPC_PORT": str(labels.GRPC_PORT),
        "ARGOSY_METRICS_PORT": str(labels.METRICS_PORT),
        "ARGOSY_TERMINATION_LOG": TERMINATION_LOG,
        "HOME": "/tmp",  # noqa: S108 - an emptyDir of the pod's own: the root is read-only
    }
    if _scheme(model.uri) == "hf":
        fixed["ARGOSY_MODEL_CACHE"] = CACHE_PATH
    env: list[Manifest] = [
        {"name": "ARGOSY_WORKER_ID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "ARGOSY_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        *({"name": name, "value": literal(value)} for name, value in fixed.items()),
        *redis,
    ]
    if model.token_secret_ref is not None:
        reference = {"name": model.token_secret_ref.name, "key": model.token_secret_ref.key}
        env.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}})
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


def _volumes(spec: InferenceDeploymentSpec) -> tuple[list[Manifest], list[Manifest]]:
    volumes: list[Manifest] = [{"name": "tmp", "emptyDir": {}}]
    mounts: list[Manifest] = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - in the pod
    scheme = _scheme(spec.model.uri)
    if scheme == "pvc":
        claim = urlsplit(spec.model.uri).netloc
        source = {"claimName": claim, "readOnly": True}
        volumes.append({"name": "model", "persistentVolumeClaim": source})
        mounts.append({"name": "model", "mountPath": f"{labels.MODELS_PATH}/{claim}", "readOnly": True})
    if scheme == "hf":
        cache = spec.model_cache
        if cache is not None and cache.type == "pvc":
            volumes.append({"name": "cache", "persistentVolumeClaim": {"claimName": cache.claim_name}})
        else:
            size = cache.size if cache is not None and cache.size is not None else DEFAULT_CACHE_SIZE
            volumes.append({"name": "cache", "emptyDir": {"sizeLimit": str(size)}})
        mounts.append({"name": "cache", "mountPath": CACHE_PATH})
    return volumes, mounts


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


def _scheme(uri: str) -> str:
    return uri.partition("://")[0]
