"""Builds what a run consists of: Valkey, the router, and one job for each pod of each resource's plan."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from argosy_api import adapters as lists
from argosy_api import logs, net
from argosy_api.model_uri import ModelUri
from argosy_api.process import ADAPTERS, HF_TOKEN, IMAGE_ROOT, MODEL_CACHE, PVC_ROOT, REDIS_URL
from argosy_api.resource import InferenceDeployment
from argosy_cli.embedded import machine as machines
from argosy_cli.embedded import pods, ports, services
from argosy_cli.embedded.keeper import Keeper
from argosy_cli.embedded.machine import Machine
from argosy_cli.embedded.pods import Pod
from argosy_cli.embedded.replica import Replica, Surroundings
from argosy_cli.embedded.resources import Loaded
from argosy_cli.embedded.run import RunFolder, cache
from argosy_cli.embedded.states import ProcessState, ResourceState, RunState
from argosy_cli.errors import ResourceError
from argosy_operator.autoscaling import pilot, schedule
from argosy_operator.manifests import PlanSettings
from argosy_operator.plan import Observed, child_ref, plan

SLACK_S = 5.0
"""Between the end of a grace period and SIGKILL."""
GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"
_WILDCARDS = {"0.0.0.0": "127.0.0.1", net.EVERYWHERE: "127.0.0.1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where the router listens, and whom it answers."""

    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    access: Path | None = None
    """The document that says who may ask; None: anybody may."""
    api_keys: Path | None = None
    cors_origins: str = ""
    """Web pages that may ask; with commas between them."""

    def reachable(self, port: int) -> str:
        """host:port as a client on this machine writes it."""
        return net.address(_WILDCARDS.get(self.host, self.host), port)

    def arguments(self) -> list[str]:
        """The options of `argosy up` that say the same."""
        told = {
            "host": self.host,
            "http-port": self.http_port,
            "grpc-port": self.grpc_port,
            "metrics-port": self.metrics_port,
            "access": None if self.access is None else self.access.resolve(),
            "api-keys": None if self.api_keys is None else self.api_keys.resolve(),
            "cors-origins": self.cors_origins or None,
        }
        return [f"--{name}={value}" for name, value in told.items() if value is not None]


@dataclass(slots=True)
class Workers:
    """A resource and the processes of its pods."""

    resource: InferenceDeployment
    state: ResourceState
    make: Callable[[Pod], "Kept"]
    """Builds what runs a pod; nothing is started."""
    pods: list[Pod]
    """All that there may ever be."""
    kept: list["Kept"] = field(default_factory=list)
    """Those that there are, and that end."""

    @property
    def replicas(self) -> list[Replica]:
        """The jobs."""
        return [kept.replica for kept in self.kept]

    @property
    def keepers(self) -> list[Keeper]:
        """Who keeps them running."""
        return [kept.keeper for kept in self.kept]

    def add(self) -> "Kept":
        """One more: the first pod that is not there."""
        there = {kept.replica.pod.name for kept in self.kept}
        made = self.make(next(pod for pod in self.pods if pod.name not in there))
        self.kept.append(made)
        self.state.replicas.append(made.replica.state)
        return made

    def remove(self, kept: "Kept") -> None:
        """One that has ended, and is not to begin again."""
        self.kept.remove(kept)
        self.state.replicas.remove(kept.replica.state)


class Kept(NamedTuple):
    """A replica, and who keeps it running."""

    replica: Replica
    keeper: Keeper


class Parts(NamedTuple):
    """All that is supervised."""

    valkey: Keeper | None
    """None where there is no server for this platform; everything works, with fewer cache hits."""
    router: Keeper
    workers: list[Workers]
    build: Callable[[InferenceDeployment], Workers]
    """Makes the workers of one more resource, or of another state of one; none of it is in the run yet."""


def assemble(
    loaded: Sequence[Loaded],
    options: Options,
    *,
    machine: Machine,
    folder: RunFolder,
    environment: Mapping[str, str],
    state: RunState,
    changed: Callable[[], None],
) -> Parts:
    """Build all parts and enter their states into `state`; nothing is started."""
    resources = [item.resource for item in loaded]
    # our own settings are not the children's: ARGOSY_GRPC_PORT, for one, means the router's port here
    inherited = {k: v for k, v in environment.items() if not k.startswith("ARGOSY_") or k in (logs.LEVEL, logs.FORMAT)}
    inherited["PYTHONUNBUFFERED"] = "1"
    taken = {options.http_port, options.grpc_port, options.metrics_port}
    valkey, url = _valkey(taken, folder, state, changed)
    router = _router(resources, options, folder, environment=inherited | _redis(url), run=state, changed=changed)
    busy = sum(r.spec.most_workers for r in resources if ModelUri.parse(r.spec.model.uri).scheme != "sim")
    around = Surroundings(
        folder=folder.path,
        python=sys.executable,
        environment=inherited,
        overrides=_overrides(environment) | _redis(url),
        secret=_secrets(environment),
        threads=machines.threads_per_worker(machine.cores, busy),
        taken=taken,
    )
    gpus = _devices(machine, environment)

    def build(resource: InferenceDeployment) -> Workers:
        return _workers(resource, around, _assign(resource, machine, gpus), changed=changed, folder=folder)

    workers = [build(resource) for resource in resources]
    state.resources += [w.state for w in workers]
    return Parts(valkey, router, workers, build)


def _valkey(
    taken: set[int], folder: RunFolder, run: RunState, changed: Callable[[], None]
) -> tuple[Keeper | None, str]:
    binary = services.find_valkey()
    if binary is None:
        return None, ""
    run.redis_port = ports.free_port(taken)
    taken.add(run.redis_port)
    state = ProcessState(name="valkey")
    run.services.append(state)
    job = services.Valkey(binary, run.redis_port, folder.path, state, changed)
    return Keeper(job, state, grace_s=SLACK_S, changed=changed), job.url


def _router(
    resources: Sequence[InferenceDeployment],
    options: Options,
    folder: RunFolder,
    *,
    environment: Mapping[str, str],
    run: RunState,
    changed: Callable[[], None],
) -> Keeper:
    drain = max(resource.spec.drain.timeout_seconds for resource in resources)
    arguments: dict[str, str | int] = {
        "host": options.host,
        "http-port": options.http_port,
        "grpc-port": options.grpc_port,
        "decision-headers": "true",  # one user's machine: nobody to hide other requests from
        "metrics-port": options.metrics_port,
        "orders": str(folder.orders),
        "membership": f"file:{folder.membership}",
        "drain-seconds": drain,
    }
    if options.access is not None:
        arguments["access"] = str(options.access.resolve())
        arguments["decision-headers"] = "false"  # among several tenants: for admins
    if options.api_keys is not None:
        arguments["api-keys"] = str(options.api_keys.resolve())
    if options.cors_origins:
        arguments["cors-origins"] = options.cors_origins
    state = ProcessState(name="router")
    run.services.append(state)
    job = services.Router(arguments, environment, state, folder.path, http=run.http, changed=changed)
    return Keeper(job, state, grace_s=drain + SLACK_S, changed=changed)


def _workers(
    resource: InferenceDeployment,
    around: Surroundings,
    gpus: Iterator[str | None],
    *,
    changed: Callable[[], None],
    folder: RunFolder,
) -> Workers:
    _adapters_file(folder, resource).write_text(lists.to_json(resource.spec.adapters))
    made = plan(pilot.with_replicas(resource, resource.spec.most_workers), Observed(), PlanSettings())
    workloads = {workload.ref for workload in made.workloads}
    manifests = [manifest for manifest in made.apply if child_ref(manifest) in workloads]
    meta = resource.metadata
    state = ResourceState(
        namespace=meta.namespace,
        name=meta.name,
        served_name=resource.served_name,
        uri=str(ModelUri.parse(resource.spec.model.uri)),
    )
    all_pods = [pod for manifest in manifests for pod in pods.pods(manifest)]
    devices = {pod.name: next(gpus) for pod in all_pods}

    def make(pod: Pod) -> Kept:
        process = ProcessState(name=pod.name)
        mine = around.with_overrides({ADAPTERS: str(_adapters_file(folder, resource))})
        replica = Replica(pod, process, mine, gpu=devices[pod.name], changed=changed)
        return Kept(replica, Keeper(replica, process, grace_s=replica.limits.grace_s + SLACK_S, changed=changed))

    workers = Workers(resource, state, make, all_pods)
    scaled = resource.spec.autoscaling
    for _ in range(len(all_pods) if scaled is None else schedule.least(scaled, datetime.now(UTC))):
        workers.add()
    return workers


def _adapters_file(folder: RunFolder, resource: InferenceDeployment) -> Path:
    """What is a ConfigMap in a cluster."""
    return folder.path / f"{resource.metadata.namespace}.{resource.metadata.name}.{lists.FILE}"


def _overrides(environment: Mapping[str, str]) -> dict[str, str]:
    """What the manifest says about the pod's own file system, put right for this one."""
    overrides = {
        MODEL_CACHE: str(cache(environment)),
        "HOME": environment.get("HOME") or str(Path.home()),  # in a pod it is an empty volume
    }
    for name in (PVC_ROOT, IMAGE_ROOT):
        if root := environment.get(name):
            overrides[name] = str(Path(root).resolve())
    return overrides


def _redis(url: str) -> dict[str, str]:
    return {REDIS_URL: url} if url else {}


def _secrets(environment: Mapping[str, str]) -> Callable[[str, str], str]:
    """The one Secret that a resource can name is the access token; `review` has asked for it already."""

    def value(name: str, key: str) -> str:
        if token := environment.get(HF_TOKEN):
            return token
        raise ResourceError(f"key {key} of Secret {name}: there are no Secrets here; set {HF_TOKEN}")

    return value


def _devices(machine: Machine, environment: Mapping[str, str]) -> Iterator[str]:
    """Names of the CUDA devices that we may give out, each once."""
    named = environment.get(GPU_VARIABLE)
    return iter(named.split(",") if named else map(str, range(machine.gpus)))


def _assign(resource: InferenceDeployment, machine: Machine, devices: Iterator[str]) -> Iterator[str | None]:
    """For each worker of a resource what CUDA may show it: its devices, none, or (None) whatever there is."""
    while True:
        if (asked := resource.spec.resources.gpu) is not None:
            yield ",".join(next(devices) for _ in range(asked.count))
        elif machine.gpus and resource.spec.engine.device != "cuda":
            yield ""  # as in a cluster: who asks for no GPU sees none
        else:
            yield None
