"""The native gRPC front: argosy.v1.Inference.Generate, which streams the worker's own chunks."""

from collections.abc import AsyncIterator, Sequence

from argosy_api import limits
from argosy_api.convert import params_from_proto
from argosy_api.errors import InvalidArgumentError
from argosy_api.grpc_status import errors_to_status
from argosy_api.structured.constraint import parse as parse_constraint
from argosy_api.tracing import carried
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc
from argosy_router.ask import Ask, Caller
from argosy_router.fronts.credentials import tenant_of_call
from argosy_router.fronts.grpc_common import Context, Heading, call_deadline, metadata_request_id
from argosy_router.resumption import parse
from argosy_router.routing.dispatch import Decision
from argosy_router.service import Service
from argosy_router.text.messages import ROLES, Message, Prompt


class NativeFront(rpc.InferenceServicer):
    """The servicer."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def Generate(  # noqa: N802 - gRPC's name
        self, request: pb.InferenceRequest, context: Context
    ) -> AsyncIterator[pb.GenerateChunk]:
        """Streams the answer to a text, to token ids or to a chat."""
        async with errors_to_status(context):
            with self._service.request("grpc") as taken:
                taken.account.take(request.ByteSize(), "prompt")
                caller = Caller(
                    request_id=metadata_request_id(context, request.request_id),
                    deadline=call_deadline(context),
                    tenant=tenant_of_call(),
                    trace=carried(context.invocation_metadata()),
                )
                (job,) = (await self._service.prepare(taken, _ask(request), caller)).jobs

                def headers(decision: Decision) -> Sequence[tuple[str, str]]:
                    return (("x-request-id", caller.request_id), *self._service.headers(decision, caller.tenant))

                head = Heading(context, headers)

                def went(decision: Decision) -> None:
                    head.taken(decision)
                    _ = job.digest  # made here, while the worker computes: the first chunk waits for it

                async with head, self._service.flying(taken, job, went) as flight:
                    await head.answered(flight.decision)
                    told = False
                    async for chunk in flight:
                        chunk.request_id = caller.request_id
                        if chunk.token_ids and not told:
                            told, chunk.resume_token = True, flight.resume_token
                        yield chunk


def _ask(request: pb.InferenceRequest) -> Ask:
    kind = request.WhichOneof("prompt")
    prompts: list[Prompt] = []
    messages: list[Message] = []
    if kind == "text":
        field, prompts = "text", [request.text]
    elif kind == "tokens":
        field, prompts = "tokens.ids", [_ids(request.tokens)]
    elif kind == "chat":
        field, messages = "chat.messages", _messages(request.chat)
    else:
        raise InvalidArgumentError("prompt", "is missing: give text, tokens or chat")
    return Ask(
        model=request.model,
        fields=[field],
        prompts=prompts,
        messages=messages,
        params=params_from_proto(request.sampling),
        fill_context=kind == "chat" and not request.sampling.HasField("max_tokens"),
        cache_salt=request.cache_salt,
        priority=request.priority,
        constraint=parse_constraint(request.constraint) if request.constraint else None,
        resumption=parse(request.resume) if request.HasField("resume") else None,
    )


def _ids(tokens: pb.TokenIds) -> list[int]:
    count = len(tokens.ids)
    if count > limits.MAX_PROMPT_IDS:
        raise InvalidArgumentError("tokens.ids", f"has {count} token ids; at most {limits.MAX_PROMPT_IDS}")
    return list(tokens.ids)


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
