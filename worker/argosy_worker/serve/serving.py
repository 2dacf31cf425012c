"""What the gRPC server answers from: what is loaded, and what is to be said before it is."""

from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer

from argosy_api.errors import UnavailableError
from argosy_api.tracing import Tracing
from argosy_api.v1 import worker_pb2 as pb
from argosy_worker.engine.client import Engine
from argosy_worker.engine.metrics import WorkerMetrics
from argosy_worker.engine.preparing import Prepare
from argosy_worker.grammar.answer import AnswerGrammar
from argosy_worker.grammar.compiler import Grammars
from argosy_worker.kv_events.log import KvEventLog
from argosy_worker.serve.adapters import NO_SOURCE, Adapters
from argosy_worker.serve.imports import Imports
from argosy_worker.serve.lifecycle import Lifecycle
from argosy_worker.serve.session import Sessions

SERVICE = pb.DESCRIPTOR.services_by_name["Worker"].full_name


class Serving:
    """What the server answers from. `engine` and the rest are set together once the model is loaded."""

    def __init__(
        self, *, worker_id: str, epoch: int, state: Lifecycle, events: KvEventLog, metrics: WorkerMetrics
    ) -> None:
        self.worker_id = worker_id
        self.epoch = epoch
        self.state = state
        self.events = events
        self.metrics = metrics
        self.tracing: Tracing | None = None
        """Where spans are wanted."""
        self.health = HealthServicer()
        self.sessions = Sessions()
        self._engine: Engine | None = None
        self._info: pb.ModelInfo | None = None
        self._imports: Imports | None = None
        self._grammars: Grammars | None = None
        self._adapters = Adapters(NO_SOURCE, None, lambda _: None)

    async def open(self, engine: Engine, info: pb.ModelInfo, adapters: Adapters | None = None) -> None:
        """The model is loaded: requests may come."""
        self._engine, self._info, self._adapters = engine, info, adapters or self._adapters
        self._imports = Imports(engine, self.metrics)
        self._grammars = Grammars(engine.facts)
        await self.set_health(serving=True)

    async def set_health(self, *, serving: bool) -> None:
        """Answer of the health service."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", SERVICE):
            await self.health.set(service, status)

    def end_streams(self) -> None:
        """Those that end by themselves: else the server would wait for subscribers and sessions."""
        self.events.close()
        self.sessions.close()

    @property
    def engine(self) -> Engine:
        """The engine.

        Raises:
            UnavailableError: the model is not loaded yet.

        """
        if self._engine is None:
            raise UnavailableError(self._why_not())
        return self._engine

    def prepare(self, request: pb.GenerateRequest) -> Prepare | None:
        """How the request's blocks are brought in before it begins; None when nobody is said to have them."""
        imports, source = self._imports, request.kv_source
        if imports is None or not source:
            return None
        return lambda ids: imports.fetch(source, ids)

    async def grammar(self, request: pb.GenerateRequest) -> AnswerGrammar | None:
        """What the answer is constrained to. Raises as `Grammars.of`."""
        return None if self._grammars is None else await self._grammars.of(request.constraint)

    @property
    def adapters(self) -> Adapters:
        """What requests may ask for beside the model."""
        return self._adapters

    def load(self) -> pb.Load:
        """The report for routers; raises like `engine`."""
        report = self.engine.load(worker_id=self.worker_id, epoch=self.epoch)
        report.adapters.update(self._adapters.served)
        return report

    @property
    def info(self) -> pb.ModelInfo:
        """Facts for routers; raises like `engine`."""
        if self._info is None:
            raise UnavailableError(self._why_not())
        return self._info

    def _why_not(self) -> str:
        now = self.state.now
        return f"the model is not loaded yet ({now.phase}, {now.progress:.0%})"
