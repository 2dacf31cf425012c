"""From the engine's plain types to protobuf messages."""

from dataclasses import fields
from typing import Any

from argosy_api import blocks
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.worker_status import ServedModel
from argosy_worker.core.batch import TokenLogprob
from argosy_worker.core.request import Finish
from argosy_worker.engine.client import Engine
from argosy_worker.engine.stream import Piece, Stream

_FINISH = {
    Finish.STOP: pb.FINISH_REASON_STOP,
    Finish.LENGTH: pb.FINISH_REASON_LENGTH,
    Finish.ABORT: pb.FINISH_REASON_ABORT,
}


def to_proto(chunk: Piece, stream: Stream) -> pb.GenerateChunk:
    """The message of a chunk."""
    usage = None
    if chunk.usage is not None:
        usage = pb.Usage(
            prompt_tokens=chunk.usage.prompt_tokens,
            cached_tokens=chunk.usage.cached_tokens,
            completion_tokens=chunk.usage.completion_tokens,
        )
    return pb.GenerateChunk(
        request_id=stream.request_id,
        attempt=stream.attempt,
        index=chunk.index,
        token_ids=chunk.tokens,
        text=chunk.text,
        logprobs=[_logprob(entry) for entry in chunk.logprobs],
        prompt_logprobs=[_logprob(entry) for entry in chunk.prompt_logprobs],
        embedding=chunk.embedding,
        finish_reason=_FINISH[chunk.finish] if chunk.finish else pb.FINISH_REASON_UNSPECIFIED,
        stop_reason=chunk.stop_reason,
        usage=usage,
    )


def _logprob(entry: TokenLogprob) -> pb.TokenLogprob:
    return pb.TokenLogprob(
        token=entry.token,
        logprob=entry.logprob,
        top=[pb.Alternative(token=token, logprob=logprob) for token, logprob in entry.top],
    )


def model_info(engine: Engine, **more: Any) -> pb.ModelInfo:
    """Facts of the model and the engine, with what only the process knows (`worker_id`, `served_name`, ...)."""
    config = engine.config
    told = pb.ModelInfo.DESCRIPTOR.fields_by_name
    facts = {field.name: getattr(engine.facts, field.name) for field in fields(engine.facts) if field.name in told}
    return pb.ModelInfo(
        block_hash_version=blocks.VERSION,
        block_size=config.block_size,
        total_blocks=config.num_blocks,
        host_blocks=config.host_blocks,
        max_model_len=config.max_model_len,
        kv_layout=engine.blocks.layout,
        kv_block_bytes=engine.blocks.bytes_per_block,
        sessions=True,
        queue_order=config.scheduler.order.value,
        queue_ageing=config.scheduler.ageing,
        **facts,
        **more,
    )


def served_model(info: pb.ModelInfo, weights_bytes: int) -> ServedModel:
    """What the operator reads of it on `/state`; small, where the model's description is not."""
    return ServedModel(
        architecture=info.architecture,
        quantization=info.quantization,
        compute=info.compute,
        device=info.device,
        max_model_len=info.max_model_len,
        kv_blocks_per_replica=info.total_blocks,
        weights_bytes=weights_bytes,
        kv_bytes_per_token=info.kv_block_bytes // info.block_size,
        kv_cache_bytes=info.kv_block_bytes * info.total_blocks,
        fingerprint=info.fingerprint,
        instruction_set=info.instruction_set,
        exactness=info.exactness,
    )
