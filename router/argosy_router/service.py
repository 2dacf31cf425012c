"""What all fronts share: from a parsed request to a running flight, with its limits and its metrics."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argosy_api import limits
from argosy_api.errors import ArgosyError, InternalError, InvalidArgumentError, OverloadedError, UnavailableError
from argosy_api.params import SamplingParams, check_prompt
from argosy_router.clock import now
from argosy_router.fleet.fleet import DeploymentState, Fleet
from argosy_router.metrics import UNKNOWN_MODEL, Metrics
from argosy_router.relay import Flight
from argosy_router.routing.dispatch import Dispatcher, Job, no_worker
from argosy_router.text.chat import Message
from argosy_router.text.models import ModelCard

MAX_INFLIGHT = 8192
"""Requests that the router carries at once."""
MAX_TOKENIZING = 1024
"""Requests that wait for the tokenizer's threads."""

T = TypeVar("T")
Prompt = str | list[int]


class Service:
    """The router without its fronts."""

    def __init__(
        self, fleet: Fleet, dispatcher: Dispatcher, metrics: Metrics, pool: ThreadPoolExecutor, *, attempts: int
    ) -> None:
        self.fleet = fleet
        self.metrics = metrics
        self.draining = False
        self.running = 0
        self._dispatcher = dispatcher
        self._pool = pool
        self._attempts = attempts
        self._tokenizing = 0

    @property
    def ready(self) -> bool:
        """Whether clients should be sent here."""
        return self.fleet.known and not self.draining

    # --- preparing

    def model(self, name: str) -> tuple[DeploymentState, ModelCard]:
        """The deployment that serves `name`, and its card.

        Raises:
            NotFoundError: there is none.
            UnavailableError: none of its workers was ready yet.

        """
        if not name or len(name) > limits.MAX_MODEL_NAME:
            raise InvalidArgumentError("model", f"must have 1 to {limits.MAX_MODEL_NAME} characters")
        if not self.fleet.known:
            raise UnavailableError("the router does not know any deployment yet; try again")
        state = self.fleet.resolve(name)
        if state.card is None:
            raise UnavailableError(no_worker(state, tried=0))
        return state, state.card

    async def encode(self, card: ModelCard, prompt: Prompt, *, field: str = "prompt") -> list[int]:
        """Token ids of a plain prompt; given ids are taken as they are."""
        if not isinstance(prompt, str):
            return prompt
        ids = await self._in_thread(lambda: card.text.encode(_bounded(prompt, field), field=field))
        bos = card.facts.bos_token_id
        return [bos, *ids] if card.facts.add_bos and bos is not None and ids[:1] != [bos] else ids

    async def render(self, card: ModelCard, messages: list[Message]) -> list[int]:
        """Token ids of a chat, by the model's template."""
        if sum(len(m["content"]) for m in messages) > limits.MAX_PROMPT_BYTES:
            raise InvalidArgumentError("messages", f"have more than {limits.MAX_PROMPT_BYTES} bytes")
        return await self._in_thread(
            lambda: card.text.encode(_bounded(card.chat.render(messages), "messages"), field="messages")
        )

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._tokenizing >= MAX_TOKENIZING:
            raise OverloadedError("too many prompts wait to be tokenized")
        self._tokenizing += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._tokenizing -= 1

    def job(
        self,
        state: DeploymentState,
        card: ModelCard,
        tokens: list[int],
        params: SamplingParams,
        *,
        request_id: str,
        cache_salt: str = "",
        deadline: float | None = None,
        received_at: float = 0.0,
        field: str = "prompt",
    ) -> Job:
        """Checks everything that the worker would refuse, and addresses the prompt's blocks.

        Raises:
            InvalidArgumentError: naming the field.

        """
        facts = card.facts
        params.check(vocab_size=facts.vocab_size)
        try:
            check_prompt(tokens, vocab_size=facts.vocab_size, max_model_len=facts.max_model_len)
        except InvalidArgumentError as error:
            if field == "prompt":
                raise
            raise InvalidArgumentError(field, error.message.partition(": ")[2]) from None
        if params.prompt_logprobs is not None and len(tokens) > limits.MAX_PROMPT_LOGPROBS_TOKENS:
            raise InvalidArgumentError(
                "prompt_logprobs",
                f"are given for prompts up to {limits.MAX_PROMPT_LOGPROBS_TOKENS} tokens; this has {len(tokens)}",
            )
        check_salt(cache_salt)
        return Job(
            deployment=state,
            request_id=request_id,
            tokens=tokens,
            block_ids=card.block_ids(tokens, cache_salt),
            params=params,
            cache_salt=cache_salt,
            deadline=deadline,
            received_at=received_at,
        )

    # --- running

    def flight(self, job: Job) -> Flight:
        """A flight for the job, not yet started."""
        return Flight(job, self._dispatcher, self.metrics, attempts=self._attempts)

    @contextlib.contextmanager
    def request(self, api: str) -> Iterator["Tracked"]:
        """Counts one request of a client from its beginning to its end, whatever that is.

        Raises:
            OverloadedError: the router carries as many as it may.
            UnavailableError: it is shutting down.

        """
        tracked = Tracked(now())
        self.running += 1
        try:
            self._admit()
            yield tracked
        except ArgosyError as error:
            tracked.code = error.status
            raise
        except (asyncio.CancelledError, ConnectionError, TimeoutError):  # the client is gone, or reads nothing
            tracked.code = "CANCELLED"
            raise
        except Exception:
            tracked.code = InternalError.status
            raise
        finally:
            self.running -= 1
            self.metrics.requests.labels(tracked.model, api, tracked.code).inc()
            if tracked.model != UNKNOWN_MODEL:
                self.metrics.duration.labels(tracked.model).observe(now() - tracked.started)

    def _admit(self) -> None:
        if self.draining:
            raise UnavailableError("the router is shutting down; try again elsewhere")
        if self.running > MAX_INFLIGHT:
            raise OverloadedError("the router carries as many requests as it may")

    @contextlib.asynccontextmanager
    async def flying(self, job: Job) -> AsyncIterator[Flight]:
        """A started flight, with its metrics; closed on every way out."""
        name = job.deployment.name
        inflight = self.metrics.inflight.labels(name)
        inflight.inc()
        flight = self.flight(job)
        try:
            await flight.start()
            if job.received_at:
                self.metrics.ttft.labels(name).observe(now() - job.received_at)
            yield flight
        finally:
            flight.close()
            inflight.dec()
            self.metrics.prompt.labels(name).inc(len(job.tokens))
            self.metrics.cached.labels(name).inc(flight.cached_tokens)
            self.metrics.generated.labels(name).inc(flight.delivered)


class Tracked:
    """One client's request, for its metrics."""

    __slots__ = ("code", "model", "started")

    def __init__(self, started: float) -> None:
        self.started = started
        self.model = UNKNOWN_MODEL
        self.code = "OK"


def check_salt(salt: str) -> None:
    """Refuse a cache salt that is too long or not Unicode."""
    try:
        size = len(salt.encode())
    except UnicodeEncodeError:
        raise InvalidArgumentError("cache_salt", "is not valid Unicode text") from None
    if size > limits.MAX_CACHE_SALT:
        raise InvalidArgumentError("cache_salt", f"has {size} bytes; at most {limits.MAX_CACHE_SALT}")


def request_id(given: str | None) -> str:
    """The id that a header brings, or a new one: what a gateway writes there is no reason to refuse work."""
    return given if given and _fit_for_logs(given) else secrets.token_hex(12)


def check_request_id(given: str, *, field: str) -> str:
    """The id that a field of the request itself brings: answers are matched by it, so it cannot be replaced.

    Raises:
        InvalidArgumentError: too long, or with characters that have no business in logs.

    """
    if not _fit_for_logs(given):
        raise InvalidArgumentError(field, f"must be at most {limits.MAX_REQUEST_ID} printable characters of ASCII")
    return given


def _fit_for_logs(text: str) -> bool:
    return len(text) <= limits.MAX_REQUEST_ID and text.isascii() and text.isprintable()


def _bounded(text: str, field: str) -> str:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > limits.MAX_PROMPT_BYTES:
        raise InvalidArgumentError(field, f"has {size} bytes; at most {limits.MAX_PROMPT_BYTES}")
    return text
