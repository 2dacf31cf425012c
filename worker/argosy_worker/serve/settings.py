"""What the process is told: the command line says what to serve, the environment says where it runs."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from argosy_api import net, process, worker_spec
from argosy_api.arrangement import Arrangement, arrange, share
from argosy_api.errors import InvalidArgumentError
from argosy_api.model_uri import ModelUri
from argosy_api.pipeline import Place
from argosy_api.spec.engine import EngineSpec
from argosy_api.worker_spec import WorkerSpec
from argosy_worker.machine import usable_cores

GPUS = "CUDA_VISIBLE_DEVICES"
"""What the CUDA libraries of a process see."""
_HERE = "127.0.0.1"
_MOST_PID = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of a worker process, checked."""

    spec: WorkerSpec
    """What to serve."""
    namespace: str = "default"
    deployment: str = ""
    worker_id: str = ""
    host: str = net.EVERYWHERE
    grpc_port: int = 9000
    metrics_port: int = 9001
    rank: int = 0
    """Of this process in its group."""
    local_ranks: int = 1
    """Processes of this pod that share the model."""
    gpus: tuple[str, ...] = ()
    """For each rank of this pod what CUDA may show it; nothing where it has one rank."""
    parent: int = 0
    """Process id of the one that started this rank of its pod; 0 for a pod's first."""
    group_leader: tuple[str, int] = ("", 0)
    """Where rank 0 of the group takes the others in."""
    redis_url: str = ""
    """Empty: no events are published; routers subscribe to the worker instead."""
    model_cache: Path = Path("model-cache")
    adapters: Path | None = None
    """File with the list of adapters; None: there are none."""

    @property
    def engine(self) -> EngineSpec:
        """How the engine runs."""
        return self.spec.engine

    @property
    def ranks(self) -> int:
        """Processes that share the model."""
        return self.spec.parallelism.ranks

    @property
    def place(self) -> Place:
        """Of this process in its group."""
        return Place(self.rank, self.spec.parallelism.pipeline, self.spec.parallelism.tensor)

    @property
    def arrangement(self) -> Arrangement:
        """How the ranks lie in pods."""
        return arrange(self.place.parts, self.place.stages, self.local_ranks)

    @property
    def local_rank(self) -> int:
        """Of this process in its pod."""
        return self.rank % self.local_ranks

    @property
    def served_host(self) -> str:
        """Where its ports are. Those of a pod's further ranks are asked by nobody outside."""
        return _HERE if self.local_rank else self.host

    @property
    def group_host(self) -> str:
        """Where the other ranks reach this one."""
        return _HERE if self.arrangement.pods == 1 else self.host

    @property
    def threads(self) -> int:
        """Of this process, for computing: its share of the pod's."""
        return share(self.engine.threads or usable_cores(), self.local_ranks, self.local_rank)

    @property
    def model_uri(self) -> ModelUri:
        """Where the model is."""
        return ModelUri.parse(self.spec.model.uri)

    @property
    def served_name(self) -> str:
        """Name that clients ask for."""
        return self.spec.model.served_name or self.deployment


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Read the command line (a wrong option ends the process with code 2, as argparse does) and the environment.

    Raises:
        InvalidArgumentError: naming the setting.

    """
    parser = argparse.ArgumentParser(prog="python -m argosy_worker", description="Serve one model over gRPC.")
    parser.add_argument(
        worker_spec.OPTION,
        required=True,
        help='what to serve, in the resource\'s own terms, as JSON: {"model": {"uri": "sim://m", "servedName": "m"}}',
    )
    spec = WorkerSpec.parse(parser.parse_args(arguments).spec)
    rank, local, leader = _place(environment, spec)
    deployment = environment.get(process.DEPLOYMENT) or spec.model.served_name or ""
    return Settings(
        spec=spec,
        namespace=environment.get(process.NAMESPACE) or "default",
        deployment=deployment,
        worker_id=environment.get(process.WORKER_ID) or f"{deployment}-{os.getpid()}",
        host=environment.get(process.HOST) or net.EVERYWHERE,
        grpc_port=process.port(environment, process.GRPC_PORT, 9000),
        metrics_port=process.port(environment, process.METRICS_PORT, 9001),
        rank=rank,
        local_ranks=local,
        gpus=_gpus(environment, local),
        parent=_number(environment, process.PARENT, 0, 0, _MOST_PID),
        group_leader=leader,
        redis_url=process.redis_url(environment),
        adapters=Path(listed) if (listed := environment.get(process.ADAPTERS)) else None,
        model_cache=Path(environment.get(process.MODEL_CACHE) or Path.home() / ".cache" / "argosy"),
    )


def _place(environment: Mapping[str, str], spec: WorkerSpec) -> tuple[int, int, tuple[str, int]]:
    """Rank of this process, ranks of its pod, and where rank 0 is (port 0: in this process, at any free one)."""
    parallelism = spec.parallelism
    local = _number(environment, process.LOCAL_RANKS, 1, 1, parallelism.ranks)
    try:
        arrangement = arrange(parallelism.tensor, parallelism.pipeline, local)
    except ValueError as error:
        raise InvalidArgumentError(process.LOCAL_RANKS, str(error)) from None
    own = _number(environment, process.LOCAL_RANK, 0, 0, local - 1)
    if arrangement.pods == 1 and not own:
        return 0, local, (_HERE if local > 1 else "", 0)
    pod = 0 if arrangement.pods == 1 else _number(environment, process.RANK, None, 0, arrangement.pods - 1)
    leader = environment.get(process.GROUP_LEADER, "")
    host, _, port = leader.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) < 65536:
        raise InvalidArgumentError(process.GROUP_LEADER, f"is {leader[:80]!r}; must be host:port with parallelism")
    return arrangement.ranks(pod)[own], local, (host.strip("[]"), int(port))


def _gpus(environment: Mapping[str, str], ranks: int) -> tuple[str, ...]:
    """Of all GPUs that the pod may see, one for each of its ranks, by the names that CUDA knows."""
    named = environment.get(GPUS)
    if ranks == 1 or environment.get(process.LOCAL_RANK):  # whoever has started this one has chosen
        return ()
    if named == "":
        return ("",) * ranks
    found = [part.strip() for part in named.split(",")] if named else [str(number) for number in range(ranks)]
    if len(found) < ranks:
        raise InvalidArgumentError(GPUS, f"names {len(found)} GPUs; {ranks} ranks of this pod have one each")
    return tuple(found[:ranks])


def _number(environment: Mapping[str, str], variable: str, default: int | None, least: int, most: int) -> int:
    """What a variable says; without a default it is needed."""
    text = environment.get(variable) or ("" if default is None else str(default))
    if not text.isascii() or not text.isdigit() or len(text) > len(str(_MOST_PID)) or not least <= int(text) <= most:
        problem = f"is {text[:20]!r}; must be {least} to {most} with parallelism"
        raise InvalidArgumentError(variable, problem)
    return int(text)
