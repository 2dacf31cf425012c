"""The external scaler, asked as KEDA asks: whether anything is to run, the target, the value, and news of both."""

import asyncio
import contextlib

import aiohttp
import grpc
import pytest
from external_kit import LOAD, Teller, old, routes
from operator_kit import document
from waiting import eventually

from argosy_api import net
from argosy_api.errors import InvalidArgumentError, NotFoundError
from argosy_api.externalscaler import externalscaler_pb2 as pb
from argosy_api.externalscaler import externalscaler_pb2_grpc as service
from argosy_api.routes import Demand
from argosy_operator.external.keda import ScalerServer, Trigger
from argosy_operator.external.source import Source
from argosy_operator.routers import Routers

METADATA = {"scalerAddress": "argosy:8444", "deployment": "m", "metric": "argosy-running", "target": "2.5"}


def reference(**changes) -> pb.ScaledObjectRef:
    metadata = {key: value for key, value in (METADATA | changes).items() if value is not None}
    return pb.ScaledObjectRef(name="scaled", namespace="default", scalerMetadata=metadata)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"deployment": None}, "metadata.deployment: is not set"),
        ({"metric": None}, "metadata.metric: is not set"),
        ({"target": None}, "metadata.target: is not set"),
        ({"target": "many"}, "metadata.target: is 'many'"),
        ({"target": "0"}, "metadata.target: is '0'"),
        ({"target": "-1"}, "metadata.target"),
        ({"target": "inf"}, "metadata.target"),
        ({"target": "nan"}, "metadata.target"),
    ],
)
def test_a_trigger_that_says_too_little_is_told_which_part(changes, says):
    with pytest.raises(InvalidArgumentError, match=says):
        Trigger.of(reference(**changes))


def test_a_trigger_of_a_metric_that_there_is_not():
    with pytest.raises(NotFoundError, match="argosy-queue-seconds"):
        Trigger.of(reference(metric="queue"))


@contextlib.asynccontextmanager
async def asked(serve, teller):
    """A client of a scaler whose routers tell what `teller` says."""
    async with aiohttp.ClientSession() as session:
        routers = Routers(session, await teller.url(serve), lambda _: None)
        server = ScalerServer(Source(routers), "127.0.0.1", 0)
        tasks = [asyncio.create_task(work) for work in (routers.run(), server.run())]
        await eventually(lambda: server.port and routers.told("default", "m"), what="routers are asked")
        try:
            async with grpc.aio.insecure_channel(net.address("127.0.0.1", server.port)) as channel:
                yield service.ExternalScalerStub(channel)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def value(stub, metric="argosy-running") -> float:
    request = pb.GetMetricsRequest(scaledObjectRef=reference(metric=metric), metricName=metric)
    (found,) = (await stub.GetMetrics(request, wait_for_ready=True)).metricValues
    assert found.metricName == metric
    assert found.metricValueFloat <= found.metricValue < found.metricValueFloat + 1  # what older versions read
    return found.metricValueFloat


async def test_target_value_and_activity(serve):
    async with asked(serve, Teller(routes(LOAD, LOAD))) as stub:
        (spec,) = (await stub.GetMetricSpec(reference(), wait_for_ready=True)).metricSpecs
        assert (spec.metricName, spec.targetSize, spec.targetSizeFloat) == ("argosy-running", 2, 2.5)
        assert await value(stub) == 6
        assert await value(stub, "argosy-kv-usage") == 0.5
        assert (await stub.IsActive(reference())).result


async def test_from_no_worker_to_one(serve):
    """As KEDA does with no replica: it asks for the value, and only where that is told, whether to begin."""
    teller = Teller(routes(demand=Demand(idle_s=100.0)))
    async with asked(serve, teller) as stub:
        assert await value(stub) == 0
        assert not (await stub.IsActive(reference())).result
        stream = stub.StreamIsActive(reference())
        assert [(await stream.read()).result] == [False]
        teller.routes = routes(demand=Demand(held=3, in_flight=3))
        assert (await asyncio.wait_for(stream.read(), 30)).result  # told without being asked again
        assert (await stub.IsActive(reference())).result
        assert await value(stub) == 3
        stream.cancel()


async def test_what_is_not_known_is_an_error_that_says_why(serve):
    async with asked(serve, Teller(routes(old(LOAD)))) as stub:
        for call in (stub.IsActive(reference(), wait_for_ready=True), value(stub)):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "not every router and worker tells" in refused.value.details()
        for changes, code in (
            ({"deployment": "other"}, grpc.StatusCode.NOT_FOUND),
            ({"target": "x"}, grpc.StatusCode.INVALID_ARGUMENT),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.IsActive(reference(**changes))
            assert refused.value.code() is code
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=reference(), metricName="s0-argosy-held"))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_whole_operator_serves_it_and_ends_as_soon_as_ever(world, serve):
    with net.listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    operator = await world.operator(router_status_url=await Teller(routes(LOAD)).url(serve), keda_port=port)
    world.apply(document("other"))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = service.ExternalScalerStub(channel)

        async def answers():
            with contextlib.suppress(grpc.aio.AioRpcError):
                return (await stub.IsActive(reference(), wait_for_ready=True, timeout=5)).result

        async with asyncio.timeout(30):
            while not await answers():
                await asyncio.sleep(0.05)
        stream = stub.StreamIsActive(reference())
        assert (await stream.read()).result
        assert await world.stop(operator) < 10  # an open stream does not hold it up


async def test_a_port_that_is_taken_is_told(world, serve):
    with net.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=str(port)):
            await world.stop(await world.operator(router_status_url="http://127.0.0.1:9/routes", keda_port=port))
