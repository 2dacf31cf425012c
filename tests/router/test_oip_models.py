"""What Triton's tools ask about models before they measure: configuration, index, statistics."""

import grpc
import pytest
import pytest_asyncio

from argosy_api.inference import inference_pb2 as oip
from argosy_api.inference import inference_pb2_grpc as rpc
from argosy_router.fronts import oip_models
from argosy_router.tally import Tallies


@pytest_asyncio.fixture
async def stub(rig):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.router.grpc_port}") as channel:
        yield rpc.GRPCInferenceServiceStub(channel)


async def test_a_models_configuration_has_the_tensors_of_its_metadata(stub):
    config = (await stub.ModelConfig(oip.ModelConfigRequest(name="m"))).config
    metadata = await stub.ModelMetadata(oip.ModelMetadataRequest(name="m"))
    assert (config.name, config.max_batch_size, config.model_transaction_policy.decoupled) == ("m", 0, True)
    assert [(i.name, list(i.dims)) for i in config.input] == [(i.name, list(i.shape)) for i in metadata.inputs]
    assert [i.name for i in config.input if not i.optional] == ["text_input"]
    kinds = {oip.TYPE_STRING: "BYTES", oip.TYPE_BOOL: "BOOL", oip.TYPE_INT64: "INT64"}
    assert [kinds[i.data_type] for i in config.input] == [i.datatype for i in metadata.inputs]
    assert [(o.name, kinds[o.data_type]) for o in config.output] == [(o.name, o.datatype) for o in metadata.outputs]


async def test_the_index_tells_which_models_can_be_asked(stub):
    (entry,) = (await stub.RepositoryIndex(oip.RepositoryIndexRequest())).models
    assert (entry.name, entry.version, entry.state) == ("m", "1", "READY")


def test_a_model_without_workers_is_left_out_where_only_ready_ones_are_asked_for():
    models = {"a": True, "b": False}
    told = oip_models.index(models, ready_only=False).models
    assert [(m.name, m.state, bool(m.reason)) for m in told] == [("a", "READY", False), ("b", "UNAVAILABLE", True)]
    assert [m.name for m in oip_models.index(models, ready_only=True).models] == ["a"]


async def test_statistics_count_what_ended(rig, stub):
    before = (await stub.ModelStatistics(oip.ModelStatisticsRequest(name="m"))).model_stats[0]
    assert (before.inference_count, before.last_inference) == (0, 0)
    request = oip.ModelInferRequest(model_name="m")
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"hello")
    await stub.ModelInfer(request)
    for worker in rig.workers:
        worker.script.fail_first = grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.ModelInfer(request)
    for asked in ("m", ""):
        (after,) = (await stub.ModelStatistics(oip.ModelStatisticsRequest(name=asked))).model_stats
        success, fail = after.inference_stats.success, after.inference_stats.fail
        assert (after.name, after.inference_count, success.count, fail.count) == ("m", 1, 1, 1)
        assert success.ns > 0
        assert after.last_inference > 1_600_000_000_000


@pytest.mark.parametrize("call", ["ModelConfig", "ModelStatistics"])
@pytest.mark.parametrize(("name", "version"), [("nope", ""), ("m", "7")])
async def test_what_is_not_there_is_not_found(stub, call, name, version):
    asked = getattr(oip, f"{call}Request")(name=name, version=version)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(stub, call)(asked)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_times_are_added_up_apart():
    tallies = Tallies()
    for code, seconds in (("OK", 0.5), ("CANCELLED", 2.0), ("OK", 0.25), ("INVALID_ARGUMENT", 1.0)):
        tallies.ended("m", code, seconds, at=1700000000.25)
    told = oip_models.statistics("m", tallies.of("m"))
    assert (told.inference_stats.success.count, told.inference_stats.success.ns) == (2, 750_000_000)
    assert (told.inference_stats.fail.count, told.inference_stats.fail.ns) == (2, 3_000_000_000)
    assert told.last_inference == 1700000000250
    assert tallies.of("another").succeeded == 0
