"""A scripted worker and helpers for the router's tests."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import aiohttp
import grpc
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from argosy_api import blocks
from argosy_api.convert import ACCEPTED_KEY
from argosy_api.ending import end
from argosy_api.grpc_status import error_of
from argosy_api.keys import BATCH_FIELD, Keys
from argosy_api.membership import Canary, Deployment, Membership, RoutingPolicy, Worker
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc
from argosy_worker.serve.session import Session

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BLOCK = 16


def byte_tokenizer(*, bos: str = "") -> bytes:
    """256 byte tokens in the order of byte-level BPE's alphabet, then the specials; `bos` stands before each text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(s, special=True) for s in SPECIALS])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return tokenizer.to_str().encode()


TOKENIZER_JSON = byte_tokenizer()
_TOKENIZER = Tokenizer.from_str(TOKENIZER_JSON.decode())
VOCAB = _TOKENIZER.get_vocab_size()


def encode(text: str) -> list[int]:
    return list(_TOKENIZER.encode(text, add_special_tokens=False).ids)


def decode(ids: list[int]) -> str:
    return _TOKENIZER.decode(ids, skip_special_tokens=True)


def answer_of(prompt: list[int], count: int) -> list[int]:
    """What a fake worker generates: a text that depends on the whole prompt."""
    word = f"<{sum(prompt) % 997}|{len(prompt)}> lorem ipsum é 漢 dolor sit amet "
    ids = encode(word)
    return [ids[i % len(ids)] for i in range(count)]


def embedding_of(prompt: list[int]) -> list[float]:
    """What a fake worker gives for a prompt: numbers that single precision has."""
    return [len(prompt) / 8, prompt[0] / 4, prompt[-1] / 4, -0.5]


@dataclass
class Script:
    """What a fake worker does with the requests that it gets."""

    fail_first: grpc.StatusCode | None = None
    """Ends each call with this before anything was sent."""
    details: str = "scripted"
    trailing: tuple[tuple[str, str], ...] = ()
    die_after: int | None = None
    """Ends each call with UNAVAILABLE after so many tokens."""
    close_after: int | None = None
    """Ends each call with OK, but unfinished, after so many tokens."""
    abort_after: int | None = None
    hang: bool = False
    faults_left: int | None = None
    """How many of the faults below happen, in all workers that share the script; None: each that is due."""
    deaths: list[int] = field(default_factory=list)
    """Tokens at each of which one worker dies."""
    pause_after: int | None = None
    """Computes nothing for this request any more until `release` is set; the worker answers."""
    stop_after: int | None = None
    """Gives no sign any more after so many tokens, as a stopped process, until `release` is set."""
    hang_accepted: bool = False
    """Takes a request, and computes nothing until `release` is set."""
    release: asyncio.Event = field(default_factory=asyncio.Event)
    step_s: float = 0.0
    skip_index: bool = False
    stale_chunks: bool = False
    tokens_per_chunk: int = 1
    usage_first: bool = True

    def due(self, at: int | None, index: int) -> bool:
        """Whether a fault that is to come at this token happens now."""
        if at is None or index < at or self.faults_left == 0:
            return False
        if self.faults_left is not None:
            self.faults_left -= 1
        return True


class _CallContext:
    """What a call of a session has of an RPC's context."""

    def __init__(self, call: pb.SessionCall, accepted: Callable[[int], object]) -> None:
        self._call = call
        self._accepted = accepted

    def invocation_metadata(self):
        return self._call.trace.items()

    def time_remaining(self) -> float | None:
        return self._call.timeout_seconds if self._call.HasField("timeout_seconds") else None

    async def send_initial_metadata(self, pairs) -> None:
        if (number := dict(pairs).get(ACCEPTED_KEY)) is not None:
            self._accepted(int(number))

    async def abort(self, code, details="", trailing=()):
        raise _aborted(code, details, trailing)


def _aborted(code, details, trailing):
    error = error_of(code, details, trailing)
    error.status = code.name
    return error


@dataclass
class FakeWorker(rpc.WorkerServicer):
    worker_id: str = "w0"
    epoch: int = 1
    fingerprint: str = "f" * 32
    served_name: str = "m"
    max_model_len: int = 4096
    total_blocks: int = 10_000
    host_blocks: int = 0
    hash_version: int = blocks.VERSION
    template: str = TEMPLATE
    tokenizer_json: bytes = TOKENIZER_JSON
    loading: bool = False
    rate: float = 1000.0
    queue_order: str = "leastWork"
    queue_ageing: float = 0.25
    role: str = ""
    revision: str = ""
    kv_layout: str = ""
    kv_block_bytes: int = 0
    transfer: float = 0.0
    embedding_size: int = 4
    sessions: bool = True
    """Offers one stream for all calls, as workers do; older ones don't."""
    adapters: dict[str, str] = field(default_factory=dict)
    script: Script = field(default_factory=Script)

    def __post_init__(self) -> None:
        self.requests: list[pb.GenerateRequest] = []
        self.opened = 0
        """Sessions."""
        self.cancelled: list[str] = []
        self.ended: list[str] = []
        self.cached: set[bytes] = set()
        self.seq = 0
        self.ring: list[pb.KvEventBatch] = []
        self.queue: list[pb.QueuedWork] | None = None
        """What it says of its line; None: the truth."""
        self.waiting: dict[str, tuple[int, float]] = {}
        """(uncached tokens, since when) of the requests that hang for the script's sake, by their ids."""
        self.subscribers: list[asyncio.Queue[pb.KvEventBatch]] = []
        self.subscriptions = 0
        self.publish: Callable[[pb.KvEventBatch], object] | None = None
        self.server: grpc.aio.Server | None = None
        self.port = 0
        self.running = 0
        self.draining = False
        self.accepted = 0
        self.sequence = 0
        self.uncached_tokens: float | None = None
        self.step_age = 0.0
        self.slow_step = 0.01
        self.stuck = 0
        """Requests inside an engine that hangs: it can't drop them when their calls are cancelled."""
        self.introduced = asyncio.Event()
        """Until it is set, what the worker serves is not told."""
        self.introduced.set()
        self.stopped = False
        self.mute = False
        """Reports no more: what was said last is read again and again."""

    # --- life

    async def start(self, port: int = 0) -> "FakeWorker":
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        rpc.add_WorkerServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")
        await self.server.start()
        return self

    async def stop(self) -> None:
        if self.server is not None:
            await self.server.stop(None)
            self.server = None

    def member(self, **more: object) -> Worker:
        return Worker(worker_id=self.worker_id, address=f"127.0.0.1:{self.port}", **more)  # type: ignore[arg-type]

    def ids(self, tokens: list[int], salt: str = "", adapter: str = "") -> list[bytes]:
        return blocks.block_ids(blocks.root_id(self.fingerprint, adapter=adapter, salt=salt), tokens, BLOCK)

    # --- events

    def emit(self, *, stored: list[bytes] = (), removed: list[bytes] = (), lose: bool = False) -> None:  # type: ignore[assignment]
        """A change of the cache; `lose` keeps it from everyone, but takes its number."""
        self.seq += 1
        self.cached |= set(stored)
        self.cached -= set(removed)
        batch = pb.KvEventBatch(epoch=self.epoch, seq=self.seq, stored=stored, removed=removed)
        self.ring.append(batch)
        if lose:
            return
        for queue in self.subscribers:
            queue.put_nowait(batch)
        if self.publish is not None:
            self.publish(batch)

    def snapshot(self) -> pb.KvEventBatch:
        return pb.KvEventBatch(epoch=self.epoch, seq=self.seq, snapshot=True, stored=sorted(self.cached))

    async def SubscribeKvEvents(self, request, context):
        self.subscriptions += 1
        queue: asyncio.Queue[pb.KvEventBatch] = asyncio.Queue()
        if request.start_sequence == 0 or request.epoch != self.epoch:
            queue.put_nowait(self.snapshot())
        else:
            for batch in self.ring:
                if batch.epoch == self.epoch and batch.seq >= request.start_sequence:
                    queue.put_nowait(batch)
        self.subscribers.append(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self.subscribers.remove(queue)

    # --- the rest of the service

    async def GetModel(self, request, context):
        await self.introduced.wait()
        if self.loading:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "loading")
        eos = _TOKENIZER.token_to_id("<|im_end|>")
        return pb.ModelInfo(
            worker_id=self.worker_id, epoch=self.epoch, served_name=self.served_name, fingerprint=self.fingerprint,
            block_hash_version=self.hash_version, block_size=BLOCK, total_blocks=self.total_blocks,
            host_blocks=self.host_blocks,
            max_model_len=self.max_model_len, vocab_size=VOCAB, embedding_size=self.embedding_size, architecture="fake", quantization="none", compute="none",
            tokenizer_json=self.tokenizer_json, chat_template=self.template, eos_token_ids=[eos],
            bos_token_id=_TOKENIZER.token_to_id("<|endoftext|>"),
            special_tokens={"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"},
            queue_order=self.queue_order, queue_ageing=self.queue_ageing,
            role=self.role, revision=self.revision, kv_layout=self.kv_layout, kv_block_bytes=self.kv_block_bytes,
            sessions=self.sessions,
        )  # fmt: skip

    def load(self) -> pb.Load:
        if not self.mute:
            self.sequence += 1
        queue = self.queue
        if queue is None:
            at = time.monotonic()
            queue = [pb.QueuedWork(uncached_tokens=t, waited_seconds=at - s) for t, s in self.waiting.values()]
        total = sum(q.uncached_tokens for q in queue) if self.uncached_tokens is None else self.uncached_tokens
        return pb.Load(
            worker_id=self.worker_id, epoch=self.epoch, running=self.running + self.stuck, total_blocks=self.total_blocks,
            free_blocks=self.total_blocks, prefill_tokens_per_second=self.rate, queue=queue, draining=self.draining,
            sequence=self.sequence, accepted=self.accepted, uncached_tokens=total, last_step_age_seconds=self.step_age,
            transfer_bytes_per_second=self.transfer, slow_step_seconds=self.slow_step, adapters=self.adapters,
        )  # fmt: skip

    async def GetLoad(self, request, context):
        if self.stopped:
            await self.script.release.wait()
            self.stopped = False
        return self.load()

    async def Generate(self, request: pb.GenerateRequest, context) -> AsyncIterator[pb.GenerateChunk]:
        self.requests.append(request)
        self.running += 1
        try:
            async for chunk in self._generate(request, context):
                yield chunk
            self.ended.append(request.request_id)
        except (asyncio.CancelledError, GeneratorExit):  # while it waits, or between two chunks
            self.cancelled.append(request.request_id)
            raise
        finally:
            self.running -= 1

    async def Session(self, request_iterator, context) -> AsyncIterator[pb.SessionReply]:
        if not self.sessions:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        self.opened += 1

        async def answer(call, accepted):
            async with contextlib.aclosing(self.Generate(call.request, _CallContext(call, accepted))) as chunks:
                async for chunk in chunks:
                    yield chunk

        async with contextlib.aclosing(Session(answer).replies(request_iterator)) as replies:
            async for reply in replies:
                yield reply

    def _hits(self, prompt: list[int], ids: list[bytes]) -> int:
        """Blocks of a prompt that are in the cache."""
        usable = ids[: (len(prompt) - 1) // BLOCK]
        return next((i for i, block in enumerate(usable) if block not in self.cached), len(usable))

    async def _generate(self, request, context):
        script = self.script
        if script.fail_first is not None:
            await context.abort(script.fail_first, script.details, script.trailing)
        self.accepted += 1
        await context.send_initial_metadata(((ACCEPTED_KEY, str(self.accepted)),))
        prompt = list(request.prompt_tokens)
        ids = self.ids(prompt, request.cache_salt, request.adapter)
        if script.hang_accepted:
            self.waiting[request.request_id] = len(prompt) - self._hits(prompt, ids) * BLOCK, time.monotonic()
            try:
                await script.release.wait()
            finally:
                del self.waiting[request.request_id]
        if script.hang:
            await asyncio.Event().wait()
        hits = self._hits(prompt, ids)
        new = [b for b in ids if b not in self.cached]
        if new:
            self.emit(stored=new)
        sampling = request.sampling
        tokens = answer_of(prompt, sampling.max_tokens)
        if list(request.resumed_tokens) != tokens[: len(request.resumed_tokens)]:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "resumed_tokens: are not of this answer")
        usage = pb.Usage(prompt_tokens=len(prompt), cached_tokens=hits * BLOCK)
        index = begin = len(request.resumed_tokens)
        sent = len(decode(tokens[:index]).rstrip("\N{REPLACEMENT CHARACTER}"))
        if begin and request.resumed_text_bytes != len(decode(tokens[:index])[:sent].encode()):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "resumed_text_bytes: are not of this text")
        while index < len(tokens):
            piece = tokens[index : index + script.tokens_per_chunk]
            if script.due(script.stop_after, index):
                self.stopped = True
                await script.release.wait()
            if script.due(script.pause_after, index):
                await script.release.wait()
            if script.due(script.die_after, index) or (
                script.deaths and index == script.deaths[0] and script.deaths.pop(0)
            ):
                await context.abort(grpc.StatusCode.UNAVAILABLE, "scripted death")
            if script.due(script.close_after, index):
                return
            if script.due(script.abort_after, index):
                yield pb.GenerateChunk(
                    request_id=request.request_id,
                    attempt=request.attempt,
                    index=index,
                    finish_reason=pb.FINISH_REASON_ABORT,
                )
                return
            if script.stale_chunks:
                yield pb.GenerateChunk(
                    request_id=request.request_id, attempt=request.attempt + 7, index=index, token_ids=[1], text="STALE"
                )
            whole = decode(tokens[: index + len(piece)])
            last = index + len(piece) == len(tokens)
            text = whole if last else whole.rstrip("\N{REPLACEMENT CHARACTER}")
            chunk = pb.GenerateChunk(
                request_id=request.request_id, attempt=request.attempt, token_ids=piece, text=text[sent:],
                index=index + 1 if script.skip_index and index else index,
            )  # fmt: skip
            sent = len(text)
            if sampling.HasField("logprobs"):
                chunk.logprobs.extend(_logprob(t, sampling.logprobs) for t in piece)
            if index == begin == 0 and sampling.HasField("prompt_logprobs"):
                chunk.prompt_logprobs.extend(_logprob(t, sampling.prompt_logprobs) for t in prompt[1:])
            if index == begin == 0 and request.embed:
                chunk.embedding.extend(embedding_of(prompt))
            if index == begin == 0 and script.usage_first:
                chunk.usage.CopyFrom(usage)
            if last:
                chunk.finish_reason = pb.FINISH_REASON_LENGTH
                chunk.usage.CopyFrom(usage)
                chunk.usage.completion_tokens = len(tokens)
            yield chunk
            index += len(piece)
            if script.step_s:
                await asyncio.sleep(script.step_s)


def _logprob(token: int, top: int) -> pb.TokenLogprob:
    return pb.TokenLogprob(
        token=token, logprob=-0.5,
        top=[pb.Alternative(token=(token + i) % 256, logprob=-0.5 - i) for i in range(top)],
    )  # fmt: skip


class Cluster:
    """A membership source that a test drives."""

    def __init__(self, name: str = "m", policy: RoutingPolicy = RoutingPolicy.KV_AWARE) -> None:
        self.name = name
        self.policy = policy
        self.hold_s = 0.0
        self.problem = ""
        self._views: asyncio.Queue[Membership] = asyncio.Queue()

    def announce(
        self, *workers: Worker, message: str = "", others: tuple[Deployment, ...] = (), canary: Canary | None = None
    ) -> None:
        mine = Deployment(
            namespace="default",
            name=self.name,
            served_name=self.name,
            policy=self.policy,
            workers=workers,
            message=message,
            canary=canary,
            hold_s=self.hold_s,
        )
        self._views.put_nowait(Membership((mine, *others)))

    async def views(self) -> AsyncIterator[Membership]:
        while True:
            yield await self._views.get()


class RedisPublisher:
    """Writes a fake worker's lease, load and events, as a worker does."""

    def __init__(self, client, worker: FakeWorker, name: str = "m") -> None:
        self._client = client
        self._worker = worker
        self._keys = Keys("default", name)
        self._queue: asyncio.Queue[pb.KvEventBatch] = asyncio.Queue()
        worker.publish = self._queue.put_nowait
        self._tasks = [asyncio.create_task(self._beat()), asyncio.create_task(self._events())]

    async def _beat(self) -> None:
        while True:
            try:
                await self._client.set(self._keys.lease(self._worker.worker_id), self._worker.epoch, ex=4)
                await self._client.set(
                    self._keys.load(self._worker.worker_id), self._worker.load().SerializeToString(), ex=10
                )
            except Exception:
                pass
            await asyncio.sleep(0.2)

    async def _events(self) -> None:
        while True:
            batch = await self._queue.get()
            try:
                await self._client.xadd(
                    self._keys.events(self._worker.worker_id), {BATCH_FIELD: batch.SerializeToString()}
                )
            except Exception:
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        self._worker.publish = None
        await end(*self._tasks)


async def until_cut(rig, path, request):
    """What comes of a stream that fails: cut, not ended, so that who does not read its last event takes it for no answer."""
    body = b""
    async with rig.http.post(f"{rig.base}{path}", json=request) as response:
        assert response.status == 200
        with contextlib.suppress(aiohttp.ClientPayloadError):
            while piece := await response.content.readany():
                body += piece
            pytest.fail("the stream ended in order")
    return body


def events_of(body: bytes) -> list[dict]:
    """The JSON of all server-sent events but [DONE]."""
    lines = [line[6:] for line in body.decode().split("\n\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


async def quiet_client(rig, request: dict[str, object]) -> socket.socket:
    """Sends a request, and reads nothing of the answer."""
    raw = json.dumps(request).encode()
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(made, ("127.0.0.1", rig.router.http_port))
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n\r\n"
    await loop.sock_sendall(made, head.encode() + raw)
    return made
