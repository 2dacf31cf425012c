"""A request that has ended is free at once: what the collector alone can free is held, uncounted, until it comes."""

import asyncio
import gc
from collections import Counter

import grpc
import pytest
from waiting import eventually

from argosy_api.convert import params_to_proto
from argosy_api.params import SamplingParams
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc

BODY = {"model": "m", "prompt": "hello", "max_tokens": 20}
LONG = 3000
TIMES = 3
OURS = ("argosy_router.", "argosy_worker.")


async def over_http(rig, **more):
    response, _ = await rig.post("/v1/completions", {**BODY, **more})
    assert response.status == 200


async def one_that_leaves(rig, **more):
    body = {**BODY, "stream": True, "max_tokens": LONG, **more}
    async with rig.http.post(rig.base + "/v1/completions", json=body) as response:
        await response.content.readany()
        response.close()


async def over_grpc(rig, *, leave=False):
    sampling = params_to_proto(SamplingParams(max_tokens=LONG if leave else 20))
    request = pb.InferenceRequest(model="m", tokens=pb.TokenIds(ids=[104, 105]), sampling=sampling)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.router.grpc_port}") as channel:
        call = rpc.InferenceStub(channel).Generate(request)
        async for _ in call:
            if leave:
                call.cancel()
                break


async def one_that_is_refused(rig):
    request = pb.InferenceRequest(
        model="m", tokens=pb.TokenIds(ids=[104] * 5000), sampling=params_to_proto(SamplingParams(max_tokens=1))
    )
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.router.grpc_port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="INVALID_ARGUMENT"):
            await rpc.InferenceStub(channel).Generate(request).read()


async def one_whose_worker_dies(rig):
    script = rig.workers[0].script
    script.die_after, script.faults_left = 5, 1
    await over_http(rig, stream=True)
    assert script.faults_left == 0, "no worker died of it"


KINDS = {
    "whole": over_http,
    "streamed": lambda rig: over_http(rig, stream=True),
    "choices": lambda rig: over_http(rig, stream=True, n=3),
    "leaves": one_that_leaves,
    "leaves choices": lambda rig: one_that_leaves(rig, n=3),
    "its worker dies": one_whose_worker_dies,
    "gRPC": over_grpc,
    "gRPC refused": one_that_is_refused,
    "gRPC leaves": lambda rig: over_grpc(rig, leave=True),
}


async def left_to_the_collector(rig, ask) -> Counter[str]:
    """Objects of router and worker that some requests left in cycles, by type."""

    async def some() -> None:
        for _ in range(TIMES):
            await ask(rig)
        await eventually(lambda: rig.idle() and rig.router.service.running == 0)
        await eventually(lambda: not any(worker.running for worker in rig.workers))
        await asyncio.sleep(0)

    await some()  # what is made once
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        await some()
        gc.collect()
        kinds = [type(one) for one in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    return Counter(f"{k.__module__}.{k.__qualname__}" for k in kinds if k.__module__.startswith(OURS))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sessions", [True, False])
async def test_an_ended_request_leaves_nothing_to_the_collector(make_rig, fake_worker, kind, sessions):
    rig = await make_rig()
    await rig.add(fake_worker(worker_id="w0", sessions=sessions))
    assert await left_to_the_collector(rig, KINDS[kind]) == {}
