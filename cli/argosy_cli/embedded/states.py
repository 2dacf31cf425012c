"""What is known about a run: plain values that `status` reads from a file and the display shows."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

STARTING = "Starting"
CONNECTING = "Connecting"
READY = "Ready"
NOT_READY = "NotReady"
FAILED = "Failed"
STOPPING = "Stopping"
ENDED = "Ended"


@dataclass(slots=True, kw_only=True)
class ProcessState:
    """One supervised process."""

    name: str
    phase: str = STARTING
    """Starting, Downloading, Loading, Connecting (healthy, not yet known to the router), Ready, NotReady, Failed (waits
    for its next start), Stopping or Ended."""
    reason: str = ""
    """CamelCase word, as in the ModelLoaded condition."""
    message: str = ""
    progress: float = 0.0
    """0 to 1, of what the phase does."""
    retry_s: float = 0.0
    """While Failed: the delay before the next start, in seconds; 0 until the process has ended."""
    restarts: int = 0
    pid: int = 0
    """0 while there is no process."""
    address: str = ""
    """host:port of its server, while it runs."""
    pages: str = ""
    """host:port of its metrics and its step trace: a worker's, once it is healthy."""
    log: str = ""

    @property
    def ready(self) -> bool:
        """Whether it takes requests."""
        return self.phase == READY


@dataclass(slots=True, kw_only=True)
class ResourceState:
    """One InferenceDeployment and its replicas."""

    namespace: str
    name: str
    served_name: str
    uri: str
    replicas: list[ProcessState] = field(default_factory=list)

    @property
    def ready(self) -> int:
        """How many replicas take requests."""
        return sum(replica.ready for replica in self.replicas)

    @property
    def settled(self) -> bool:
        """Whether nothing is on its way: every replica is ready, or failed and says why."""
        return all(replica.phase in (READY, FAILED) for replica in self.replicas)


@dataclass(slots=True, kw_only=True)
class RunState:
    """One `argosy up`."""

    run: str
    pid: int
    started: float
    """Unix time."""
    http: str
    """host:port, as a client on this machine would write it."""
    grpc: str
    metrics: str
    redis_port: int = 0
    """0 without Valkey."""
    services: list[ProcessState] = field(default_factory=list)
    """The router, and Valkey."""
    resources: list[ResourceState] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    """What became of the latest orders, by their keys: empty where it was done, else why not."""

    def to_json(self) -> str:
        """One JSON document."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "RunState":
        """Parse what `to_json` wrote.

        Raises:
            ValueError: not such a document.

        """
        try:
            document: dict[str, Any] = json.loads(text)
            services = [ProcessState(**s) for s in document.pop("services")]
            resources = [
                ResourceState(**{**r, "replicas": [ProcessState(**p) for p in r["replicas"]]})
                for r in document.pop("resources")
            ]
            return cls(**document, services=services, resources=resources)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"not the state of a run: {error}") from error


PERMANENT = frozenset({"ModelNotFound", "ModelInvalid", "ModelUnsupported", "ModelDoesNotFit", "ModelError"})
"""Reasons of a worker's end that no other try changes: somebody must change the resource, or the model's files."""


def hopeless(state: RunState) -> str:
    """Why nothing of this run will ever serve; empty as long as something may."""
    replicas = [(r.name, replica) for r in state.resources for replica in r.replicas]
    lost = [p for _, p in replicas if p.phase == FAILED and p.retry_s and p.reason in PERMANENT]
    if not replicas or len(lost) < len(replicas):
        return ""
    told = dict.fromkeys(f"{name}: {p.reason}: {p.message}" for name, p in replicas)
    return "nothing can be served: " + ("\n  ".join(("", *told)) if len(told) > 1 else next(iter(told)))
