"""What the process is told: the command line says what to serve, the environment says where it runs."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from argosy_api import net, process, worker_spec
from argosy_api.errors import InvalidArgumentError
from argosy_api.model_uri import ModelUri
from argosy_api.pipeline import Place
from argosy_api.resource import EngineSpec
from argosy_api.worker_spec import WorkerSpec


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
    rank, leader = _place(environment, spec.parallelism.ranks)
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
        group_leader=leader,
        redis_url=process.redis_url(environment),
        adapters=Path(listed) if (listed := environment.get(process.ADAPTERS)) else None,
        model_cache=Path(environment.get(process.MODEL_CACHE) or Path.home() / ".cache" / "argosy"),
    )


def _place(environment: Mapping[str, str], ranks: int) -> tuple[int, tuple[str, int]]:
    """Rank of this process, and where rank 0 is."""
    if ranks == 1:
        return 0, ("", 0)
    rank, leader = environment.get(process.RANK, ""), environment.get(process.GROUP_LEADER, "")
    if not rank.isascii() or not rank.isdigit() or len(rank) > 4 or int(rank) >= ranks:
        raise InvalidArgumentError(process.RANK, f"is {rank[:20]!r}; must be 0 to {ranks - 1} with parallelism")
    host, _, port = leader.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) < 65536:
        raise InvalidArgumentError(process.GROUP_LEADER, f"is {leader[:80]!r}; must be host:port with parallelism")
    return int(rank), (host.strip("[]"), int(port))
