"""All that a resource's status is made of, as one pass of its control loop found it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from argosy_api.measures import Trial
from argosy_api.spec.adapters import AdapterSpec
from argosy_api.status import MemoryStatus, ModelStatus
from argosy_api.worker_status import ServedModel, WorkerStatus
from argosy_operator import kv_index
from argosy_operator.adapters import Said
from argosy_operator.autoscaling.pilot import Course
from argosy_operator.observe import Children, PodView
from argosy_operator.plan import ChildRef
from argosy_operator.prefetch import Prefetched
from argosy_operator.rollout import Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterFacts:
    """What the routers say of one resource."""

    reachable: int
    total: int
    ready: frozenset[str]
    """Workers that every reachable router can use."""
    reached: frozenset[str] = frozenset()
    """Those, and workers that answer every reachable router and whose pods are not ready yet."""
    behind: frozenset[str] = frozenset()
    """Workers that take requests, and whose prefix caches some router's index does not follow."""
    trial: Trial | None = None
    """What they measured together, where there is a canary."""
    index: kv_index.Judgement | None = None
    """Whether what they know of caches is true; None: they predict nothing."""
    error: str = ""
    asked: bool = True
    """They were asked since the operator's start."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the plan could not be made or carried out."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that a status is made of."""

    name: str
    generation: int = 0
    replicas: int = 1
    by_role: Mapping[str, int] = field(default_factory=dict)
    """Workers that are wanted, by role; those that do everything have an empty one."""
    revision: str = ""
    """What the spec asks for."""
    rollout: Decision | None = None
    """None: the resource could not be understood."""
    current_revision: str = ""
    """What the status said of it before."""
    grouped: bool = False
    """A worker is a group of pods."""
    workloads: tuple[ChildRef, ...] = ()
    """What makes the resource's pods."""
    children: Children = field(default_factory=Children)
    workers: Mapping[str, WorkerStatus] = field(default_factory=dict)
    """What workers that are not ready say of themselves, by pod."""
    mount_problems: Mapping[str, str] = field(default_factory=dict)
    router: RouterFacts | None = None
    """None: nobody asks the routers in this installation."""
    endpoint: str = ""
    model: ModelStatus | None = None
    plan: MemoryStatus | None = None
    """As written before; what workers say now counts more."""
    counted_for: str = ""
    """What the memory of today's workers is counted for; empty where that is not known."""
    served: Mapping[str, ServedModel] = field(default_factory=dict)
    """What ready workers of the current revision say that they serve, by pod."""
    adapters: Sequence[AdapterSpec] = ()
    """That are wanted."""
    adapters_said: Said = field(default_factory=dict)
    """What those workers say of them."""
    name_holder: str | None = None
    """`namespace/name` of the older resource that has the served name; empty: it is this one's; None: not known."""
    failure: Failure | None = None
    prefetched: Prefetched | None = None
    """How many nodes have what workers need; None: the resource does not ask for it."""
    course: Course | None = None
    """Where autoscaling goes; None: the resource has none."""

    @property
    def in_force(self) -> str:
        """Revision of the workers that serve; the one that is asked for, unless that one failed or is being tried."""
        return self.revision if self.rollout is None else self.rollout.stable


def is_routable(pod: PodView, router: RouterFacts | None) -> bool:
    """Whether requests can reach it, as far as anybody can tell."""
    return pod.ready and (router is None or pod.name in router.ready)
