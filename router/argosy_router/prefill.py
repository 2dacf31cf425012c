"""The first half of a disaggregated request: a prefill worker computes the prompt, for whoever generates.

It is asked for one token, with the request's own parameters, so it computes what the answer needs; the token itself
comes again from the worker that answers. Whatever goes wrong here costs time alone: that worker computes the prompt.
"""

import asyncio
import logging

import grpc

from argosy_api.convert import params_to_proto
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.clock import now
from argosy_router.fleet.peer import Peer
from argosy_router.metrics import Metrics
from argosy_router.routing.dispatch import Dispatcher
from argosy_router.routing.job import Job

log = logging.getLogger(__name__)

LEAST_S = 10.0
FACTOR = 4.0
"""A prompt that is not computed within LEAST_S, nor within so many times the estimate, is computed elsewhere."""


async def prefill(job: Job, dispatcher: Dispatcher, metrics: Metrics, request_id: str) -> Peer | None:
    """The worker that has computed the prompt; None where it is left to the one that answers."""
    calls: list[grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateChunk]] = []
    assignment = dispatcher.assign_prompt(job, abandon=lambda: [call.cancel() for call in calls])
    if assignment is None:
        return None
    name, result = job.deployment.name, "failed"
    limit = max(LEAST_S, FACTOR * assignment.decision.cost_s)
    if job.deadline is not None:
        limit = min(limit, max(0.0, job.deadline - now()))
    call = assignment.worker.stub.Generate(_request(job, assignment.source, request_id), timeout=limit)
    calls.append(call)
    try:
        async for chunk in call:
            if chunk.token_ids:
                assignment.tokens(len(chunk.token_ids))
                result = "done"
    except grpc.aio.AioRpcError as error:
        log.info("request %s: prompt at %s: %s", job.request_id, assignment.decision.worker, error.code().name)
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            assignment.worker.eject(now())
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        log.info("request %s: worker %s hangs", job.request_id, assignment.decision.worker)
    finally:
        call.cancel()
        assignment.close()
        metrics.prefills.labels(name, result).inc()
    return assignment.worker if result == "done" else None


def _request(job: Job, source: str, request_id: str) -> pb.GenerateRequest:
    sampling = params_to_proto(job.params)
    sampling.max_tokens, sampling.min_tokens = 1, 0
    sampling.ClearField("logprobs")
    return pb.GenerateRequest(
        request_id=request_id,
        attempt=1,
        prompt_tokens=job.tokens,
        sampling=sampling,
        cache_salt=job.cache_salt,
        adapter=job.adapter,
        kv_source=source,
    )
