"""One server that is measured: which model it has, which fields it takes, and one request with its times."""

import json
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp

from argosy_cli.bench.stream import Course, StreamError, said
from argosy_cli.errors import CommandError, RequestError

TIMEOUT_S = 600.0
"""Of one request, to its last token."""
_EXTRAS: tuple[dict[str, Any], ...] = (
    {"ignore_eos": True, "stream_options": {"include_usage": True}},
    {"stream_options": {"include_usage": True}},
    {"ignore_eos": True},
    {},
)
"""What not every server knows: the most that one takes is used for all its requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What each request asks for."""

    output_tokens: int
    chat: bool = True

    @property
    def path(self) -> str:
        """Below the server's `/v1`."""
        return "/chat/completions" if self.chat else "/completions"

    def body(self, model: str, prompt: str) -> dict[str, Any]:
        """The request, without what only some servers know."""
        asked = {"messages": [{"role": "user", "content": prompt}]} if self.chat else {"prompt": prompt}
        return {"model": model, **asked, "max_tokens": self.output_tokens, "temperature": 0, "stream": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One request. Seconds; `failure` is empty where it was answered to the end."""

    took_s: float = 0.0
    first_s: float = 0.0
    gaps_s: tuple[float, ...] = ()
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    failure: str = ""


@dataclass(slots=True)
class Server:
    """An asynchronous context manager; `meet` before the first request."""

    url: str
    model: str = ""
    """Empty: the only one that it has."""
    key: str = ""
    extras: dict[str, Any] = field(default_factory=dict)
    _session: aiohttp.ClientSession | None = None

    def __post_init__(self) -> None:
        self.url = base(self.url)

    @property
    def name(self) -> str:
        """host:port."""
        return urlsplit(self.url).netloc

    @property
    def label(self) -> str:
        """What is measured, for tables."""
        return f"{self.model} at {self.name}"

    async def __aenter__(self) -> Self:
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            headers=headers, trust_env=False, read_bufsize=2**20,
        )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def meet(self, wanted: Wanted, prompt: str) -> None:
        """Find the model, and which fields the server takes; this is the request that warms it up.

        Raises:
            RequestError: nobody answers there, it is no such server, has no such model, or does not stream.

        """
        self.model = chosen(self.model, await self._models(), self.name)
        first = ""
        for extras in _EXTRAS:
            self.extras = extras
            try:
                sample = await self._ask(wanted, prompt)
            except _RefusedError as refused:
                if refused.status not in {400, 422}:
                    raise RequestError(f"{self.url}{wanted.path}: {refused}") from None
                first = first or str(refused)
                continue
            except (StreamError, aiohttp.ClientError, OSError) as error:
                raise RequestError(f"{self.url}{wanted.path}: {_words(error)}") from error
            if not sample.tokens:
                raise RequestError(f"{self.url}{wanted.path}: the answer has no text; is {self.model} a chat model?")
            return
        raise RequestError(f"{self.url}{wanted.path} refuses the request: {first}")

    async def ask(self, wanted: Wanted, prompt: str) -> Sample:
        """One request; what goes wrong is told in the sample."""
        try:
            return await self._ask(wanted, prompt)
        except (_RefusedError, StreamError, aiohttp.ClientError, OSError) as error:
            return Sample(failure=_words(error))

    async def _ask(self, wanted: Wanted, prompt: str) -> Sample:
        body = json.dumps(wanted.body(self.model, prompt) | self.extras).encode()
        course, began = Course(), time.perf_counter()
        async with self._open.post(
            self.url + wanted.path, data=body, headers={"content-type": "application/json"}
        ) as answer:
            if answer.status != 200:
                raise _RefusedError(answer.status, said(_parsed(await answer.read())))
            if answer.content_type != "text/event-stream":
                raise StreamError(f"the server does not stream: it answers with {answer.content_type}")
            async for line in answer.content:
                course.take(line, time.perf_counter() - began)
        took = time.perf_counter() - began
        if not course.ended:
            raise StreamError("the stream ended before the answer was complete")
        times = course.times
        return Sample(
            took_s=took,
            first_s=times[0] if times else took,
            gaps_s=tuple(after - before for before, after in pairwise(times)),
            prompt_tokens=course.prompt_tokens,
            cached_tokens=course.cached_tokens,
            tokens=course.tokens or len(times),
        )

    async def _models(self) -> list[str]:
        try:
            async with self._open.get(self.url + "/models", timeout=aiohttp.ClientTimeout(total=10)) as answer:
                raw = await answer.read()
        except (aiohttp.ClientError, OSError) as error:
            raise RequestError(f"nobody answers at {self.url}: {_words(error)}") from error
        body = _parsed(raw)
        if answer.status in {401, 403}:
            raise RequestError(f"{self.url} wants an API key: {said(body)} (docs/bench.md says how to give one)")
        try:
            return [str(model["id"]) for model in body["data"]]
        except (KeyError, TypeError):
            raise RequestError(
                f"{self.url}/models does not answer as an OpenAI-compatible server ({answer.status}): {said(body)}"
            ) from None

    @property
    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RequestError(f"{self.url} is not connected")
        return self._session


class _RefusedError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


def base(url: str) -> str:
    """The address of a server's `/v1`, however it was written.

    Raises:
        CommandError: no address of a server.

    """
    full = url if "://" in url else f"http://{url}"
    wrong = CommandError(f"{url!r} is no address of a server; it looks like http://127.0.0.1:8000")
    try:
        parts = urlsplit(full)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise wrong from None
    if not good or parts.query or parts.fragment:
        raise wrong
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path if path.endswith('/v1') else path + '/v1'}"


def chosen(model: str, served: list[str], where: str) -> str:
    """The model that is asked for.

    Raises:
        RequestError: it is not there, or there are several and none was named.

    """
    told = ", ".join(served[:10]) or "none"
    if model and model not in served:
        raise RequestError(f"{where} has no model {model!r}; it has: {told}")
    if not model and len(served) != 1:
        raise RequestError(f"{where} has {len(served)} models; name one with --model (or --peer-model): {told}")
    return model or served[0]


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return raw[:200].decode("utf-8", "replace").strip()


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
