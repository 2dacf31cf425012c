"""Who is there: what a router is told about deployments and their workers, never asked of Redis.

In a cluster the router derives this from InferenceDeployments and EndpointSlices; in embedded mode the supervisor
writes it to a file (one JSON document, replaced atomically) that the router watches.
"""

import json
from dataclasses import asdict, dataclass
from enum import StrEnum

from argosy_api.names import Claim


class RoutingPolicy(StrEnum):
    """How a deployment's requests are spread over its workers."""

    KV_AWARE = "kvAware"
    PREFIX_HASH = "prefixHash"
    ROUND_ROBIN = "roundRobin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One worker that may be called."""

    worker_id: str
    address: str
    """host:port of its gRPC server."""
    revision: str = ""
    serving: bool = True
    """False while it is not ready, or once it is terminating: no new requests; running streams go on."""
    terminating: bool = False
    """It will not come back."""
    metrics: str = ""
    """host:port of its metrics, where the router is to show them with its own; empty: others look after them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A part of the requests is for workers of one revision."""

    revision: str
    weight: int
    """Percent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One InferenceDeployment, as far as a router must know it."""

    namespace: str
    name: str
    served_name: str
    policy: RoutingPolicy = RoutingPolicy.KV_AWARE
    fetch_blocks: bool = True
    """Whether a worker may be told to fetch blocks from another one."""
    share_cache: bool = False
    """Whether tenants may use each other's blocks."""
    workers: tuple[Worker, ...] = ()
    message: str = ""
    """Why there is no worker, when that is known: goes into the client's error."""
    created_at: float = 0.0
    """When the resource was made: of equal served names the oldest has it (`argosy_api.names`, also for `uid`)."""
    uid: str = ""
    canary: Canary | None = None
    adapters: tuple[str, ...] = ()
    """Names of LoRA adapters that its workers are to have."""
    hold_s: float = 0.0
    """How long a request that finds no worker waits for one; 0: it is refused at once."""

    @property
    def qualified_name(self) -> str:
        """`namespace/name`, which always means this deployment."""
        return f"{self.namespace}/{self.name}"

    @property
    def claim(self) -> Claim:
        """What it wants to be called."""
        return Claim(self.served_name, self.created_at, self.uid, self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class Membership:
    """A whole view; it replaces the one before."""

    deployments: tuple[Deployment, ...] = ()

    def to_json(self) -> str:
        """One JSON document."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Membership":
        """Parse what `to_json` wrote.

        Raises:
            ValueError: not such a document.

        """
        try:
            document = json.loads(text)
            return cls(
                tuple(
                    Deployment(
                        **{
                            **d,
                            "policy": RoutingPolicy(d["policy"]),
                            "workers": tuple(Worker(**w) for w in d["workers"]),
                            "adapters": tuple(d.get("adapters", ())),
                            "canary": Canary(**d["canary"]) if d.get("canary") else None,
                        }
                    )
                    for d in document["deployments"]
                )
            )
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a membership document: {error}") from error
