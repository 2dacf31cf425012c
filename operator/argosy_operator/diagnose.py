"""Why a worker pod does not serve: pure functions of what Kubernetes and the worker say, with what to do about it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from argosy_api.process import Termination, is_reason
from argosy_api.worker_status import Phase, WorkerStatus
from argosy_operator.observe import PodView
from argosy_operator.words import quote

_QUOTE = 600
"""Characters of somebody else's message that are repeated."""


class Reason(StrEnum):
    """Reasons of conditions; those of a model error come from the worker (argosy_api.errors)."""

    READY = "Ready"
    SCALED_TO_ZERO = "ScaledToZero"
    STARTING = "Starting"
    ROLLING_OUT = "RollingOut"
    COMPLETE = "Complete"
    PARTITIONED = "Partitioned"
    CANARY = "Canary"
    ROLLED_BACK = "RolledBack"
    AS_ASKED = "AsAsked"
    DEADLINE = "ProgressDeadlineExceeded"
    INVALID_SPEC = "InvalidSpec"
    APPLY_FAILED = "ApplyFailed"
    FORBIDDEN = "Forbidden"
    NAME_CONFLICT = "NameConflict"
    DOES_NOT_FIT = "ModelDoesNotFit"
    IMAGE_NOT_ALLOWED = "ImageNotAllowed"
    NO_IMAGE_VOLUMES = "ImageVolumesNotSupported"
    API_UNAVAILABLE = "ApiServerUnavailable"
    CREATE_FAILED = "PodCreationFailed"
    # placement
    SCHEDULED = "AllScheduled"
    UNSCHEDULABLE = "Unschedulable"
    INSUFFICIENT_GPU = "InsufficientGpu"
    INSUFFICIENT_CPU = "InsufficientCpu"
    INSUFFICIENT_MEMORY = "InsufficientMemory"
    CLAIM_MISSING = "ClaimNotFound"
    CLAIM_UNBOUND = "ClaimNotBound"
    # container
    IMAGE_PULL = "ImagePullFailed"
    SECRET_MISSING = "SecretNotFound"  # noqa: S105 - a reason
    CONTAINER_CONFIG = "ContainerConfigError"
    MOUNT_FAILED = "MountFailed"
    OUT_OF_MEMORY = "OutOfMemory"
    CRASH_LOOP = "CrashLooping"
    EVICTED = "PodFailed"
    # nodes
    PREFETCHED = "Prefetched"
    PREFETCHING = "Prefetching"
    PREFETCH_FAILED = "PrefetchFailed"
    # model
    LOADED = "Loaded"
    DOWNLOADING = "Downloading"
    LOADING = "Loading"
    NOT_STARTED = "NotStarted"
    FAILED = "Failed"
    UNHEALTHY = "NotReady"
    # router
    SYNCED = "Synced"
    SYNCING = "Syncing"
    ROUTER_UNREACHABLE = "RouterUnreachable"
    NOT_OBSERVED = "NotObserved"
    INDEXED = "Indexed"
    INDEX_BEHIND = "IndexBehind"
    INDEX_BLIND = "IndexBlind"
    PREDICTIONS_MISSED = "PredictionsMissed"
    # likeness of the workers
    UNIFORM = "Uniform"
    NOT_EXACT = "NotExact"
    DIFFERENT_ARITHMETIC = "DifferentArithmetic"
    DIFFERENT_SIZE = "DifferentSize"
    # adapters
    ADAPTERS_LOADED = "AdaptersLoaded"
    ADAPTERS_LOADING = "AdaptersLoading"
    ADAPTER_FAILED = "AdapterFailed"
    # served name
    NAME_TAKEN = "NameTaken"
    NAME_FREE = "OwnName"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Why one pod does not serve. Ordered: the more it needs somebody to act, the earlier."""

    rank: int
    condition: str = field(compare=False)
    """Scheduled, ModelLoaded, Container or Router."""
    reason: str
    message: str

    @property
    def waits(self) -> bool:
        """Nobody needs to act: it only takes time."""
        return self.rank >= _TIME


_ACT, _MAYBE, _TIME = 0, 5, 10
_IMAGE = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
_CONFIG = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CreatePodSandboxError"}


HOPELESS_S = 20.0
"""An image that can't be pulled, a model that is none: after so long nobody expects that it passes by itself."""
_PASSING = {Reason.MOUNT_FAILED, "ModelDownloadFailed"}


def diagnose(pod: PodView, state: WorkerStatus | None, mount_problem: str) -> Problem | None:
    """The one cause to tell, or None for a pod that is ready."""
    if pod.ready:
        return None
    if pod.answering and pod.gated:
        text = f"{pod.name} has loaded the model and answers; it waits until every router reaches it."
        return Problem(_TIME, "Router", Reason.SYNCING, text)
    if pod.phase == "Failed":
        return Problem(_MAYBE, "Container", Reason.EVICTED, f"{pod.name} has failed and is being replaced.")
    if not pod.scheduled:
        return _scheduling(pod)
    if pod.waiting in _IMAGE:
        return _image(pod)
    if pod.waiting in _CONFIG:
        return _container_config(pod)
    failed = _ended(pod)
    if failed is not None and not pod.running:
        return failed
    if state is not None:
        return _state(pod, state)
    if mount_problem:
        if pod.image_volumes and "no volume plugin matched" in mount_problem:
            return _no_image_volumes(pod, mount_problem)
        advice = "Check that the claim's volume can be mounted on that node, and in its access mode."
        text = f"{pod.name} waits for a volume on {pod.node}: {_quote(mount_problem)} {advice}"
        return Problem(_ACT, "Container", Reason.MOUNT_FAILED, text)
    if failed is not None:
        return failed
    if pod.running:
        text = f"{pod.name} on {pod.node or 'its node'} is running and not ready yet, and does not say how far it is."
        return Problem(_TIME, "ModelLoaded", Reason.STARTING, text)
    text = f"{pod.name} is being started on {pod.node or 'a node'}."
    return Problem(_TIME + 1, "ModelLoaded", Reason.NOT_STARTED, text)


def hopeless_at(pod: PodView, problem: Problem | None) -> float:
    """From when on (seconds since the epoch) a pod's problem counts as one that does not pass by itself.

    Never where nodes may come or volumes be attached, and where a worker has begun anew and tries.
    """
    if problem is None or problem.rank != _ACT or problem.condition == "Scheduled" or problem.reason in _PASSING:
        return float("inf")
    return float("inf") if pod.running and pod.restarts < 2 else pod.created_at + HOPELESS_S


def _scheduling(pod: PodView) -> Problem:
    words = pod.scheduling
    if not words:
        return Problem(_TIME + 2, "Scheduled", Reason.NOT_STARTED, f"{pod.name} waits for the scheduler.")
    lower = words.lower()
    claim = re.search(r'persistentvolumeclaim "([^"]+)" not found', words)
    gpu = re.search(r"Insufficient ([a-z0-9.-]+/[A-Za-z0-9._-]+)", words)
    if claim is not None:
        reason = Reason.CLAIM_MISSING
        advice = f"Create the PersistentVolumeClaim {claim[1]} in this namespace, or correct its name in the resource."
    elif "unbound" in lower and "persistentvolumeclaim" in lower:
        reason = Reason.CLAIM_UNBOUND
        advice = "Check that the claim's storage class exists and can provide the volume."
    elif gpu is not None:
        reason = Reason.INSUFFICIENT_GPU
        advice = (
            f"No node has as many {gpu[1]} to spare: add such a node (and its device plugin), free one, "
            "or change spec.resources.gpu or spec.placement."
        )
    elif "insufficient memory" in lower:
        reason, advice = Reason.INSUFFICIENT_MEMORY, "Lower spec.resources.memory, or add a node."
    elif "insufficient cpu" in lower:
        reason, advice = Reason.INSUFFICIENT_CPU, "Lower spec.resources.cpu, or add a node."
    else:
        reason, advice = Reason.UNSCHEDULABLE, "Check spec.placement and spec.resources against the nodes."
    return Problem(_ACT, "Scheduled", reason, f"{pod.name}: the scheduler says: {_quote(words)} {advice}")


def _image(pod: PodView) -> Problem:
    field = "spec.model.uri" if any(image in pod.waiting_message for image in pod.image_volumes) else "spec.image"
    advice = f"Check {field}, and that the node can reach the registry (imagePullSecrets of the installation)."
    text = f"{pod.name}: {_quote(pod.waiting_message or pod.waiting)} {advice}"
    return Problem(_ACT, "Container", Reason.IMAGE_PULL, text)


def _no_image_volumes(pod: PodView, words: str) -> Problem:
    advice = (
        f"The node {pod.node} cannot mount the image of an oci:// model: its kubelet needs the feature gate "
        "ImageVolume, its runtime must be containerd 2.1 or CRI-O 1.31 at least. Keep workers off it by spec.placement."
    )
    return Problem(_ACT, "Container", Reason.NO_IMAGE_VOLUMES, f"{pod.name}: {_quote(words)} {advice}")


def _container_config(pod: PodView) -> Problem:
    words = pod.waiting_message or pod.waiting
    if pod.image_volumes and 'mkdir ""' in words:  # a runtime that knows no image in a mount sees one without a source
        return _no_image_volumes(pod, words)
    secret = re.search(r'secret "([^"]+)" not found', words)
    key = re.search(r"couldn't find key (\S+) in Secret (\S+)", words)
    if secret is not None:
        reason: str = Reason.SECRET_MISSING
        advice = f"Create the Secret {secret[1]} in this namespace, or correct spec.model.tokenSecretRef."
    elif key is not None:
        reason = Reason.SECRET_MISSING
        name = key[2].rpartition("/")[2]
        advice = f"Add the key {key[1]} to the Secret {name}, or correct spec.model.tokenSecretRef.key."
    else:
        reason, advice = Reason.CONTAINER_CONFIG, "The container cannot be made as the resource asks."
    return Problem(_ACT, "Container", reason, f"{pod.name}: {_quote(words)} {advice}")


def _ended(pod: PodView) -> Problem | None:
    """From the last end of the container: the worker leaves JSON there when its model cannot be served."""
    ended = pod.ended
    if ended is None:
        return None
    if ended.reason == "OOMKilled":
        text = (
            f"{pod.name} was killed for using more memory than spec.resources.memory allows. "
            "Raise it, or lower spec.engine.kvCacheMemory or spec.engine.kvCacheHostMemory."
        )
        return Problem(_ACT, "ModelLoaded", Reason.OUT_OF_MEMORY, text)
    told = Termination.parse(ended.message)
    if told is not None:
        return Problem(_ACT, "ModelLoaded", told.reason, f"{pod.name}: {_quote(told.message)}")
    last = f" Its last words: {_quote(ended.message)}" if ended.message.strip() else ""
    text = (
        f"{pod.name} ended with exit code {ended.exit_code} and was restarted {pod.restarts} times.{last} "
        f"See kubectl logs {pod.name} --previous."
    )
    return Problem(_ACT, "Container", Reason.CRASH_LOOP, text)


def _state(pod: PodView, state: WorkerStatus) -> Problem:
    percent = f" ({round(state.progress * 20) * 5} %)" if 0 < state.progress < 1 else ""
    said = f": {_quote(state.message)}" if state.message else "."
    match state.phase:
        case Phase.DOWNLOADING:
            return Problem(_TIME, "ModelLoaded", Reason.DOWNLOADING, f"{pod.name} downloads the model{percent}{said}")
        case Phase.LOADING:
            return Problem(_TIME, "ModelLoaded", Reason.LOADING, f"{pod.name} loads the model{percent}{said}")
        case Phase.FAILED:
            reason = state.reason if is_reason(state.reason) else Reason.FAILED
            message = state.message or "the model could not be loaded"
            return Problem(_ACT, "ModelLoaded", reason, f"{pod.name}: {_quote(message)}")
        case Phase.READY:
            text = f"{pod.name} has loaded the model; its pod is not ready yet."
            return Problem(_TIME - 1, "Container", Reason.UNHEALTHY, text)
        case Phase.DRAINING:
            return Problem(_TIME, "Container", Reason.UNHEALTHY, f"{pod.name} is ending{said}")
        case Phase.STARTING:
            return Problem(_TIME, "ModelLoaded", Reason.STARTING, f"{pod.name} is starting{said}")


def worst(problems: Mapping[str, Problem], *conditions: str) -> Problem | None:
    """The problem that most needs somebody to act, of these conditions (of all, without any)."""
    return min((p for p in problems.values() if not conditions or p.condition in conditions), default=None)


def _quote(text: str) -> str:
    return quote(text, _QUOTE)
