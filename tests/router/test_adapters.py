"""Adapters at the router: names, who is asked, and blocks that no other adapter's requests count on."""

import grpc
import openai
import pytest
from router_kit import FakeWorker
from waiting import eventually

from argosy_api.membership import Deployment
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc

PROMPT = "A prompt that is long enough for some blocks of sixteen tokens each, and for a few more of them. " * 6
DIGEST = {"pirate": "d1" * 16, "poet": "d2" * 16}


@pytest.fixture
async def rig(make_rig):
    """w0 has both adapters, w1 one of them, w2 none."""
    made = await make_rig()
    workers = [FakeWorker(worker_id=f"w{i}") for i in range(3)]
    workers[0].adapters = dict(DIGEST)
    workers[1].adapters = {"poet": DIGEST["poet"]}
    await made.add(*workers)
    await eventually(lambda: set(made.state.adapters) == set(DIGEST))
    return made


async def ask(rig, model, prompt=PROMPT):
    response, body = await rig.post("/v1/completions", {"model": model, "prompt": prompt, "max_tokens": 4})
    return response, body


async def test_requests_go_to_workers_that_have_the_adapter(rig):
    for _ in range(6):
        for model in ("m:pirate", "m:poet", "m"):
            response, _ = await ask(rig, model)
            assert response.status == 200
    w0, w1, w2 = ([request.adapter for request in worker.requests] for worker in rig.workers)
    assert w0.count(DIGEST["pirate"]) == 6
    assert w0.count(DIGEST["poet"]) + w1.count(DIGEST["poet"]) == 6
    assert set(w1) <= {"", DIGEST["poet"]}
    assert set(w2) <= {""}
    assert sum(part.count("") for part in (w0, w1, w2)) == 6


async def test_by_its_namespace_too(rig):
    qualified = rig.state.spec.qualified_name
    response, _ = await ask(rig, f"{qualified}:pirate")
    assert response.status == 200
    assert rig.workers[0].requests[-1].adapter == DIGEST["pirate"]


async def test_one_that_nobody_has_is_not_found_as_a_model_is(rig):
    client = openai.AsyncOpenAI(base_url=rig.base + "/v1", api_key="none", max_retries=0)
    for model in ("nothing", "m:nothing", "nothing:pirate", "m:", ":pirate", "m:pirate:poet"):
        with pytest.raises(openai.NotFoundError, match=r"is not served here.*m:pirate"):
            await client.completions.create(model=model, prompt="x")
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve(model.strip(":") + ":x")
    await client.close()


async def test_listed_but_not_loaded_is_unavailable(rig):
    """By the resource it is to be there, and no worker has it."""
    deployment = rig.state.spec
    rig.state.spec = Deployment(
        namespace=deployment.namespace, name=deployment.name, served_name=deployment.served_name,
        workers=deployment.workers, adapters=("pirate", "late"),
    )  # fmt: skip
    response, body = await ask(rig, "m:late")
    assert response.status == 503
    assert b"no worker has loaded" in body


async def test_models_have_their_adapters_below_them(rig):
    client = openai.AsyncOpenAI(base_url=rig.base + "/v1", api_key="none")
    found = {model.id: getattr(model, "parent", None) async for model in await client.models.list()}
    assert found == {"m": None, "m:pirate": "m", "m:poet": "m"}
    one = await client.models.retrieve("m:poet")
    assert (one.id, one.parent) == ("m:poet", "m")
    await client.close()


async def test_the_native_front_takes_the_same_names(rig):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.router.grpc_port}") as channel:
        call = rpc.InferenceStub(channel).Generate(
            pb.InferenceRequest(model="m:pirate", text=PROMPT, sampling=pb.SamplingParams(max_tokens=3))
        )
        chunks = [chunk async for chunk in call]
    assert sum(len(chunk.token_ids) for chunk in chunks) == 3
    assert rig.workers[0].requests[-1].adapter == DIGEST["pirate"]


async def test_blocks_of_one_adapter_count_for_it_alone(rig):
    """After the same prompt with an adapter, the model and the other adapter have nothing of it in the index."""
    response, _ = await ask(rig, "m:pirate")
    assert int(response.headers["x-argosy-cached-tokens-predicted"]) == 0
    await rig.until_indexed()
    predicted = {}
    for model in ("m:pirate", "m:poet", "m"):
        response, _ = await ask(rig, model)
        predicted[model] = int(response.headers["x-argosy-cached-tokens-predicted"])
    assert predicted["m:pirate"] > 16
    assert predicted["m:poet"] == predicted["m"] == 0


async def test_a_name_follows_what_most_workers_have(rig):
    """One is being replaced: who has the new one under the same name gets the requests once they are more."""
    rig.workers[1].adapters = {"poet": "d3" * 16}
    rig.workers[2].adapters = {"poet": "d3" * 16}
    await eventually(lambda: rig.state.adapters["poet"] == "d3" * 16)
    await ask(rig, "m:poet")
    assert rig.workers[0].requests == []
    for worker in rig.workers:
        worker.adapters = {}
    await eventually(lambda: rig.state.adapters == {})
    response, _ = await ask(rig, "m:poet")
    assert response.status == 404


async def test_an_answer_goes_on_at_a_worker_that_has_the_adapter(rig):
    await ask(rig, "m:pirate")
    await rig.until_indexed()
    rig.workers[1].adapters = dict(DIGEST)
    await eventually(lambda: rig.state.workers["w1"].adapters == DIGEST)
    rig.workers[0].script.die_after, rig.workers[0].script.faults_left = 2, 1
    response, _ = await ask(rig, "m:pirate")
    assert response.status == 200
    assert rig.workers[0].script.faults_left == 0
    (again,) = rig.workers[1].requests
    assert (again.adapter, len(again.resumed_tokens)) == (DIGEST["pirate"], 2)
    assert rig.workers[2].requests == []
