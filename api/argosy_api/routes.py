"""What a router can reach: `GET /routes` on its metrics port. One writer, one parser."""

import json
from dataclasses import asdict, dataclass
from enum import StrEnum


class RouteState(StrEnum):
    """A worker as a router sees it."""

    READY = "ready"
    """Takes requests."""
    CONNECTING = "connecting"
    """Not known yet."""
    EJECTED = "ejected"
    """Failed a moment ago."""
    TERMINATING = "terminating"
    """Takes no new requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRoute:
    """One worker."""

    worker_id: str
    revision: str
    """Of the resource; empty until the worker has told it."""
    state: RouteState
    indexed_blocks: int
    """Blocks of its prefix cache that the router knows of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentRoutes:
    """One deployment and its workers."""

    namespace: str
    name: str
    served_name: str
    policy: str
    workers: tuple[WorkerRoute, ...]
    name_taken_by: str = ""
    """`namespace/name` of the older deployment that has this one's served name; empty where there is none."""

    @property
    def ready(self) -> frozenset[str]:
        """Ids of the workers that take requests."""
        return frozenset(w.worker_id for w in self.workers if w.state is RouteState.READY)


@dataclass(frozen=True, slots=True)
class Routes:
    """A whole answer."""

    deployments: tuple[DeploymentRoutes, ...] = ()

    def to_json(self) -> str:
        """The body of `/routes`."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, body: str | bytes) -> "Routes":
        """Read a body; only what names a worker and says how it stands must be there.

        Raises:
            ValueError: not such a document.

        """
        try:
            return cls(
                tuple(
                    DeploymentRoutes(
                        namespace=d["namespace"],
                        name=d["name"],
                        served_name=d.get("served_name", ""),
                        name_taken_by=d.get("name_taken_by", ""),
                        policy=d.get("policy", ""),
                        workers=tuple(
                            WorkerRoute(
                                worker_id=w["worker_id"],
                                revision=w.get("revision", ""),
                                state=RouteState(w["state"]),
                                indexed_blocks=w.get("indexed_blocks", 0),
                            )
                            for w in d["workers"]
                        ),
                    )
                    for d in json.loads(body)["deployments"]
                )
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"not a router's routes: {error!r}") from error
