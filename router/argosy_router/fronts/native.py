"""The native gRPC front: argosy.v1.Inference.Generate, which streams the worker's own chunks."""

from collections.abc import AsyncIterator
from dataclasses import replace

from argosy_api import limits
from argosy_api.convert import params_from_proto
from argosy_api.errors import InvalidArgumentError
from argosy_api.grpc_status import errors_to_status
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc
from argosy_router.fronts.grpc_common import Context, call_deadline, metadata_request_id
from argosy_router.fronts.oai_parse import ROLES
from argosy_router.service import Service
from argosy_router.text.chat import Message
from argosy_router.text.models import ModelCard


class NativeFront(rpc.InferenceServicer):
    """The servicer."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def Generate(  # noqa: N802 - gRPC's name
        self, request: pb.InferenceRequest, context: Context
    ) -> AsyncIterator[pb.GenerateChunk]:
        """Streams the answer to a text, to token ids or to a chat."""
        async with errors_to_status(context):
            with self._service.request("grpc") as tracked:
                identity = metadata_request_id(context, request.request_id)
                state, card = self._service.model(request.model)
                tracked.model = state.name
                tokens, field = await self._tokens(card, request)
                params = params_from_proto(request.sampling)
                if request.WhichOneof("prompt") == "chat" and not request.sampling.HasField("max_tokens"):
                    params = replace(params, max_tokens=max(1, card.facts.max_model_len - len(tokens)))
                job = self._service.job(
                    state, card, tokens, params,
                    request_id=identity, cache_salt=request.cache_salt, deadline=call_deadline(context),
                    received_at=tracked.started, field=field,
                )  # fmt: skip
                async with self._service.flying(job) as flight:
                    await context.send_initial_metadata((("x-request-id", identity), *flight.decision.headers()))
                    async for chunk in flight:
                        chunk.request_id = identity
                        yield chunk

    async def _tokens(self, card: ModelCard, request: pb.InferenceRequest) -> tuple[list[int], str]:
        """The prompt's token ids, and the field that they come from."""
        kind = request.WhichOneof("prompt")
        if kind == "text":
            return await self._service.encode(card, request.text, field="text"), "text"
        if kind == "tokens":
            return list(request.tokens.ids), "tokens.ids"
        if kind == "chat":
            return await self._service.render(card, _messages(request.chat)), "chat.messages"
        raise InvalidArgumentError("prompt", "is missing: give text, tokens or chat")


def _messages(chat: pb.Chat) -> list[Message]:
    if not chat.messages:
        raise InvalidArgumentError("chat.messages", "must have at least one message")
    if len(chat.messages) > limits.MAX_MESSAGES:
        raise InvalidArgumentError("chat.messages", f"has {len(chat.messages)} messages; at most {limits.MAX_MESSAGES}")
    for i, message in enumerate(chat.messages):
        if message.role not in ROLES:
            raise InvalidArgumentError(
                f"chat.messages[{i}].role", f"is {message.role[:100]!r}; must be one of {', '.join(ROLES)}"
            )
    return [{"role": "system" if m.role == "developer" else m.role, "content": m.content} for m in chat.messages]
