"""What a router can reach, and what is asked of it: `GET /routes` on its metrics port. One writer, one parser."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from argosy_api.latency import BINS
from argosy_api.measures import Measures, Trial


class RouteState(StrEnum):
    """A worker as a router sees it."""

    READY = "ready"
    """Takes requests."""
    STANDBY = "standby"
    """Answers, and is not asked for anything: its pod is not ready yet."""
    CONNECTING = "connecting"
    """Not known yet."""
    EJECTED = "ejected"
    """Failed a moment ago."""
    TERMINATING = "terminating"
    """Takes no new requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLoad:
    """A worker's newest report, as this router has it. It counts what all routers sent to the worker."""

    age_s: float
    """For how long the router has had it."""
    requests: int
    """Running and waiting."""
    queue_s: float
    """Seconds that it takes to compute the prompts that are not computed yet."""
    kv_used: float
    """Part of the KV cache's blocks that requests hold, 0 to 1."""
    prefill_rate: float
    """Prompt tokens that it computes in a second, as measured; 0 until something was measured."""
    itl_s: float
    """90th percentile of the times between the latest tokens of a request; 0 while none generates."""
    waiting: int = 0
    """Of `requests`; 0 from an older router, as what follows."""
    prompt_tokens: int = 0
    """Since the worker's process began, of requests that got a token."""
    cached_tokens: int = 0
    """Of these, found in its prefix cache."""
    generated_tokens: int = 0
    """Since the worker's process began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What clients asked of this one router for a deployment."""

    held: int = 0
    """Requests that wait here because no worker is there."""
    in_flight: int = 0
    """Requests on their way, the held ones among them."""
    idle_s: float = 0.0
    """Seconds since the last request came or ended; 0 while one is on its way."""
    prompt_rate: float = 0.0
    """Prompt tokens to compute (not found cached) that came in a second, mean of the last minute."""
    ttft: Mapping[int, int] = field(default_factory=dict)
    """Times to the first token in the last minute, as `latency.Counts`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexTruth:
    """What this one router predicted of prompts in the last minutes, against what workers found. Prompt tokens."""

    requests: int = 0
    """That were compared."""
    predicted: int = 0
    """In a cache, as the index said."""
    found: int = 0
    """In a cache, as the workers said."""
    missed: int = 0
    """Predicted, and not found."""
    unforeseen: int = 0
    """Found, and not predicted."""

    def __add__(self, other: "IndexTruth") -> "IndexTruth":
        return IndexTruth(**{name: getattr(self, name) + getattr(other, name) for name in self.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRoute:
    """One worker."""

    worker_id: str
    revision: str
    """Of the resource; empty until the worker has told it."""
    state: RouteState
    indexed_blocks: int
    """Blocks of its prefix cache that the router knows of."""
    load: WorkerLoad | None = None
    """None: no recent report."""
    index_age_s: float | None = None
    """For how long the index has not been known to follow the worker's prefix cache; about 0 where it does. None: the
    index is not to follow it, or an older router does not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentRoutes:
    """One deployment and its workers."""

    namespace: str
    name: str
    served_name: str
    policy: str
    workers: tuple[WorkerRoute, ...]
    trial: Trial | None = None
    """What was measured since a canary began; None: there is no canary."""
    name_taken_by: str = ""
    """`namespace/name` of the older deployment that has this one's served name; empty where there is none."""
    demand: Demand | None = None
    """None: an older router, which does not tell."""
    index: IndexTruth | None = None
    """None: nothing is predicted here (by policy), or an older router."""

    @property
    def ready(self) -> frozenset[str]:
        """Ids of the workers that take requests."""
        return frozenset(w.worker_id for w in self.workers if w.state is RouteState.READY)

    @property
    def reached(self) -> frozenset[str]:
        """Ids of the workers that answer: those, and those whose pods are not ready yet."""
        known = (RouteState.READY, RouteState.STANDBY)
        return frozenset(w.worker_id for w in self.workers if w.state in known)

    def behind(self, seconds: float) -> frozenset[str]:
        """Ids of the workers that take requests, whose prefix caches the index has not followed for so long."""
        age = {w.worker_id: w.index_age_s for w in self.workers if w.state is RouteState.READY}
        return frozenset(name for name, since in age.items() if since is not None and since > seconds)


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
            document = json.loads(body)
        except ValueError as error:
            raise ValueError(f"not a router's routes: {error}") from error
        return cls.of(document)

    @classmethod
    def of(cls, document: Any) -> "Routes":
        """The same of parsed JSON. Raises ValueError."""
        try:
            return cls(
                tuple(
                    DeploymentRoutes(
                        namespace=d["namespace"],
                        name=d["name"],
                        served_name=d.get("served_name", ""),
                        name_taken_by=d.get("name_taken_by", ""),
                        policy=d.get("policy", ""),
                        demand=_demand(d.get("demand")),
                        index=_index(d.get("index")),
                        trial=_trial(d["trial"]) if d.get("trial") else None,
                        workers=tuple(
                            WorkerRoute(
                                worker_id=w["worker_id"],
                                revision=w.get("revision", ""),
                                state=RouteState(w["state"]),
                                indexed_blocks=w.get("indexed_blocks", 0),
                                load=_load(w.get("load")),
                                index_age_s=_optional(w.get("index_age_s")),
                            )
                            for w in d["workers"]
                        ),
                    )
                    for d in document["deployments"]
                )
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"not a router's routes: {error!r}") from error


_LATER = ("waiting", "prompt_tokens", "cached_tokens", "generated_tokens")


def _load(document: Any) -> WorkerLoad | None:
    if document is None:
        return None
    return WorkerLoad(
        age_s=_number(document["age_s"]),
        requests=int(_number(document["requests"])),
        queue_s=_number(document["queue_s"]),
        kv_used=_number(document["kv_used"]),
        prefill_rate=_number(document["prefill_rate"]),
        itl_s=_number(document["itl_s"]),
        **{name: int(_number(document.get(name, 0))) for name in _LATER},
    )


def _demand(document: Any) -> Demand | None:
    if document is None:
        return None
    ttft = {int(place): int(_number(count)) for place, count in document["ttft"].items()}
    if not all(0 <= place < BINS for place in ttft):
        raise ValueError("ttft has a bin that does not exist")
    return Demand(
        held=int(_number(document["held"])),
        in_flight=int(_number(document["in_flight"])),
        idle_s=_number(document["idle_s"]),
        prompt_rate=_number(document["prompt_rate"]),
        ttft=ttft,
    )


def _index(document: Any) -> IndexTruth | None:
    if document is None:
        return None
    return IndexTruth(**{name: int(_number(document.get(name, 0))) for name in IndexTruth.__slots__})


def _optional(value: Any) -> float | None:
    return None if value is None else _number(value)


def _number(value: Any) -> float:
    """A number that can be reckoned with."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{value!r:.40} is no number of what is there")
    return float(value)


def _trial(document: Any) -> Trial:
    sides = (Measures(**document[side]).check() for side in ("canary", "stable"))
    return Trial(str(document["revision"]), *sides)
