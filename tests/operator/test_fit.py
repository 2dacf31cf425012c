"""What cannot fit is refused before anything is created, with the numbers and the nearest that would; no more than that."""

import pytest
from operator_kit import document
from waiting import eventually

from argosy_api.memory import MIB
from argosy_api.quantity import parse_bytes
from argosy_api.resource import parse
from argosy_api.status import MemoryStatus
from argosy_api.worker_status import ServedModel
from argosy_operator import fit
from argosy_operator.uniformity import memory_of

REAL = "file:///models/m.gguf"


def spec(memory="1Gi", uri=REAL, **more):
    return parse(document(uri=uri, resources={"memory": memory}, **more)).spec


def known(wanted, weights_mib=500):
    return MemoryStatus(of=fit.counted_for(wanted), weights_bytes=weights_mib * MIB, kv_bytes_per_token=46080)


def test_from_the_resource_alone():
    assert fit.refusal(spec(), None) == ""
    text = fit.refusal(spec(engine={"kvCacheMemory": "2Gi"}), None)
    assert text.startswith("The model does not fit: of spec.resources.memory (1.0 GiB) at least 128.0 MiB are for")
    assert "the resource asks for 2.0 GiB of KV cache" in text
    assert "spec.engine.kvCacheMemory up to 896Mi; or spec.resources.memory above 2176Mi" in text
    assert fit.refusal(spec(engine={"kvCacheMemory": "896Mi"}), None) == ""
    assert fit.refusal(spec("2176Mi", engine={"kvCacheMemory": "2Gi"}), None) == ""


def test_from_what_workers_said_of_the_same_model():
    wanted = spec("600Mi")
    assert "500.0 MiB for the weights" in fit.refusal(wanted, known(wanted))
    assert fit.refusal(spec("700Mi"), known(wanted)) == ""
    assert fit.refusal(spec("600Mi", quantization={"weights": "int4"}), known(wanted)) == ""
    assert fit.refusal(spec("600Mi", uri="file:///other.gguf"), known(wanted)) == ""


def test_a_length_that_the_cache_cannot_hold():
    wanted = spec("1Gi", model={"uri": REAL, "maxModelLen": 8192})
    text = fit.refusal(wanted, known(wanted))
    assert "model.maxModelLen is 8192" in text
    shorter = int(text.partition("maxModelLen up to ")[2].partition(";")[0])
    assert fit.refusal(spec("1Gi", model={"uri": REAL, "maxModelLen": shorter // 16 * 16}), known(wanted)) == ""
    more = text.rpartition("spec.resources.memory ")[2].removesuffix(".")
    assert fit.refusal(spec(more, model={"uri": REAL, "maxModelLen": 8192}), known(wanted)) == ""
    assert parse_bytes(more) < 2**31


@pytest.mark.parametrize(
    "more", [{"uri": "sim://m"}, {"resources": {"gpu": {}}}, {"engine": {"device": "cuda", "kvCacheMemory": "9Gi"}}]
)
def test_what_lies_elsewhere_is_not_judged(more):
    engine = {"engine": {"kvCacheMemory": "9Gi"}} | more
    assert fit.refusal(parse(document(**({"uri": REAL} | engine))).spec, None) == ""


def test_the_smallest_worker_counts():
    served = {
        name: ServedModel(weights_bytes=7, kv_bytes_per_token=10, kv_cache_bytes=size)
        for name, size in (("a", 50), ("b", 40))
    }
    found = memory_of(served, "m")
    assert (found.of, found.weights_bytes, found.kv_cache_bytes, found.kv_tokens) == ("m", 7, 40, 4)
    assert memory_of({"a": ServedModel()}, "m") is None


async def test_nothing_is_created_for_what_cannot_fit_and_what_serves_goes_on(world):
    await world.operator()
    impossible = {"resources": {"memory": "512Mi"}, "engine": {"kvCacheMemory": "1Gi"}}
    world.apply(document(uri=REAL, replicas=1, **impossible))
    await eventually(lambda: world.condition("Ready")[:2] == ("False", "ModelDoesNotFit"))
    assert "spec.resources.memory above 1152Mi" in world.condition("Ready")[2]
    assert world.children() == {}
    world.apply(document(uri=REAL, replicas=1, resources={"memory": "2Gi"}, engine={"kvCacheMemory": "1Gi"}))
    await eventually(world.is_ready)
    before = world.picture()
    world.apply(document(uri=REAL, replicas=1, **impossible))
    await eventually(lambda: world.condition("Ready")[1] == "ModelDoesNotFit")
    assert world.picture() == before
