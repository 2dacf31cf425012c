"""KEDA's external scaler over gRPC: the same figures, and whether any worker is needed at all.

A trigger's metadata says what it is about: `deployment`, `metric` (a name of `figures.FIGURES`) and `target`.
Source: https://keda.sh/docs/latest/concepts/external-scalers/.
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from argosy_api import net
from argosy_api.errors import ArgosyError, InvalidArgumentError
from argosy_api.externalscaler import externalscaler_pb2 as pb
from argosy_api.externalscaler import externalscaler_pb2_grpc as service
from argosy_api.grpc_status import errors_to_status
from argosy_operator.external import figures
from argosy_operator.external.source import Source

LOOK_S = 0.5
"""Between two looks for those who want to be told of changes; routers are asked once a second meanwhile."""
STOP_S = 1.0
_MAX_MESSAGE = 64 << 10

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Trigger:
    """What a ScaledObject asks about."""

    namespace: str
    deployment: str
    metric: str
    target: float

    @classmethod
    def of(cls, reference: pb.ScaledObjectRef) -> "Trigger":
        """Read a reference.

        Raises:
            InvalidArgumentError: naming the part of the metadata that is wrong.
            NotFoundError: there is no such metric.

        """
        metadata: Mapping[str, str] = reference.scalerMetadata
        deployment, metric = (_needed(metadata, key) for key in ("deployment", "metric"))
        figures.figure(metric)
        text = _needed(metadata, "target")
        try:
            target = float(text)
        except ValueError:
            target = math.nan
        if not (math.isfinite(target) and target > 0):
            raise InvalidArgumentError("metadata.target", f"is {text!r:.40}; must be a number above 0")
        return cls(reference.namespace, deployment, metric, target)


def _needed(metadata: Mapping[str, str], key: str) -> str:
    if not metadata.get(key):
        raise InvalidArgumentError(f"metadata.{key}", "is not set in the trigger")
    return metadata[key]


class Scaler(service.ExternalScalerServicer):
    """Answers KEDA."""

    def __init__(self, source: Source) -> None:
        self._source = source

    async def IsActive(  # noqa: N802 - gRPC's name
        self, request: pb.ScaledObjectRef, context: Context
    ) -> pb.IsActiveResponse:
        """Whether there must be a worker."""
        async with errors_to_status(context):
            return pb.IsActiveResponse(result=self._is_active(Trigger.of(request)))

    async def StreamIsActive(  # noqa: N802 - gRPC's name
        self, request: pb.ScaledObjectRef, context: Context
    ) -> AsyncIterator[pb.IsActiveResponse]:
        """The same at once, and whenever it changes. While it is not known nothing is told."""
        async with errors_to_status(context):
            trigger = Trigger.of(request)
            told: bool | None = None
            while True:
                with contextlib.suppress(ArgosyError):
                    found = self._is_active(trigger)
                    if found is not told:
                        yield pb.IsActiveResponse(result=found)
                    told = found
                await asyncio.sleep(LOOK_S)

    async def GetMetricSpec(  # noqa: N802 - gRPC's name
        self, request: pb.ScaledObjectRef, context: Context
    ) -> pb.GetMetricSpecResponse:
        """The metric, and what it should be."""
        async with errors_to_status(context):
            trigger = Trigger.of(request)
            spec = pb.MetricSpec(
                metricName=trigger.metric, targetSize=max(1, round(trigger.target)), targetSizeFloat=trigger.target
            )
            return pb.GetMetricSpecResponse(metricSpecs=[spec])

    async def GetMetrics(  # noqa: N802 - gRPC's name
        self, request: pb.GetMetricsRequest, context: Context
    ) -> pb.GetMetricsResponse:
        """What it is."""
        async with errors_to_status(context):
            trigger = Trigger.of(request.scaledObjectRef)
            if request.metricName != trigger.metric:
                raise InvalidArgumentError("metricName", f"is {request.metricName!r:.80}, not the trigger's metric")
            signals = self._source.signals(trigger.namespace, trigger.deployment)
            value = figures.value(trigger.metric, signals, from_zero=True)
            told = pb.MetricValue(metricName=trigger.metric, metricValue=math.ceil(value), metricValueFloat=value)
            return pb.GetMetricsResponse(metricValues=[told])

    def _is_active(self, trigger: Trigger) -> bool:
        return figures.is_active(self._source.signals(trigger.namespace, trigger.deployment))


class ScalerServer:
    """Serves it on a port."""

    def __init__(self, source: Source, host: str, port: int) -> None:
        """`port`: 0 for any that is free."""
        self._source, self._host, self.port = source, host, port

    async def run(self) -> None:
        """Runs until it is cancelled.

        Raises:
            OSError: the port is taken.

        """
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", _MAX_MESSAGE), ("grpc.so_reuseport", 0)])
        service.add_ExternalScalerServicer_to_server(Scaler(self._source), server)
        try:
            self.port = server.add_insecure_port(net.address(self._host, self.port))
        except RuntimeError as error:
            raise OSError(f"port {self.port}: {net.why_not(self._host, self.port) or error}") from error
        await server.start()
        try:
            await server.wait_for_termination()
        finally:
            await server.stop(STOP_S)
