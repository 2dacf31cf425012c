"""The Open Inference Protocol v2 over HTTP, with Triton's extensions: generate, binary tensors, what its tools ask."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from aiohttp import web
from google.protobuf.message import Message

from argosy_api.errors import InvalidArgumentError, TooLargeError, UnavailableError
from argosy_router.fronts import oip_json, oip_models
from argosy_router.fronts.credentials import TENANT
from argosy_router.fronts.exchange import Exchange
from argosy_router.fronts.fields import parse_json
from argosy_router.fronts.http_body import read_body
from argosy_router.fronts.oip_answer import GenerateAnswer, OipAnswer
from argosy_router.fronts.oip_binary import LENGTH, joined
from argosy_router.fronts.routes import Route, get, post
from argosy_router.fronts.text_request import TextRequest

_MODEL = "/v2/models/{model}"
_BINARY = "binary_tensor_data"
_GENERATE = "generate"
_MOST_INDEX = 4096


class OipHttpFront:
    """Handlers over the exchange."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._service = exchange.service

    def routes(self) -> list[Route]:
        """What it serves; of a model with and without its version, of which there is one."""
        of_models = [
            route
            for model in (_MODEL, _MODEL + "/versions/{version}")
            for route in (
                get(model, self.model),
                get(model + "/ready", self.model_ready),
                get(model + "/config", self.config),
                get(model + "/stats", self.statistics),
                post(model + "/infer", self.infer, "oip_infer"),
                post(model + "/generate", self.generate, "oip_generate"),
                post(model + "/generate_stream", self.generate_stream, "oip_generate"),
            )
        ]
        return [
            get("/v2", self.server),
            get("/v2/health/live", self.live),
            get("/v2/health/ready", self.ready),
            get("/v2/models/stats", self.all_statistics),
            post("/v2/repository/index", self.index, "oip_index"),
            *of_models,
        ]

    # --- about the server and its models

    async def live(self, _: web.Request) -> web.Response:
        """Whether the router runs."""
        return web.json_response({"live": True})

    async def ready(self, _: web.Request) -> web.Response:
        """Whether clients should be sent here."""
        if self._service.ready:
            return web.json_response({"ready": True})
        raise UnavailableError("not ready")

    async def server(self, _: web.Request) -> web.Response:
        """Name, version, and which extensions there are."""
        told = {"name": oip_models.NAME, "version": oip_models.VERSION}
        return web.json_response({**told, "extensions": [*oip_models.EXTENSIONS, _BINARY, _GENERATE]})

    async def model(self, http: web.Request) -> web.Response:
        """The tensors of a model."""
        name = _named(http)
        self._service.fleet.resolve(name)
        return web.json_response(plain(oip_models.metadata(name)))

    async def model_ready(self, http: web.Request) -> web.Response:
        """Whether a worker could take a request now."""
        name = _named(http)
        if not oip_models.can_be_asked(self._service.fleet.resolve(name)):
            raise UnavailableError(f"no worker of {name} is ready")
        return web.json_response({"name": name, "ready": True})

    async def config(self, http: web.Request) -> web.Response:
        """The same in the words of Triton's model repository."""
        name = _named(http)
        self._service.fleet.resolve(name)
        return web.json_response(plain(oip_models.config(name)))

    async def statistics(self, http: web.Request) -> web.Response:
        """How many of a model's requests ended here, and how long they took."""
        return self._told_of([self._service.fleet.resolve(_named(http)).name])

    async def all_statistics(self, _: web.Request) -> web.Response:
        """The same of all models."""
        return self._told_of([d.name for d in self._service.fleet.deployments])

    def _told_of(self, names: list[str]) -> web.Response:
        tallies = self._service.tallies
        found = [plain(oip_models.statistics(name, tallies.of(name))) for name in dict.fromkeys(names)]
        return web.json_response({"model_stats": found})

    async def index(self, http: web.Request) -> web.Response:
        """The models that requests may name, and whether they can be asked now."""
        with self._service.request("http") as taken:
            raw = await read_body(http, taken.account.take)
            if len(raw) > _MOST_INDEX:
                raise TooLargeError("body", f"has {len(raw)} bytes; at most {_MOST_INDEX} here")
            request = oip_json.index(parse_json(raw or b"{}"))  # Triton's client sends nothing
        fleet = self._service.fleet
        models = {d.name: oip_models.can_be_asked(fleet.resolve(d.name)) for d in fleet.deployments}
        found = oip_models.index(models, ready_only=request.told["ready"])
        return web.json_response([plain(model) for model in found.models])

    # --- inference

    async def infer(self, http: web.Request) -> web.StreamResponse:
        """Tensors in, tensors out."""
        with self._service.request("http") as taken:
            self._service.glance(http[TENANT])
            length = http.headers.get(LENGTH)
            if length is None:
                request, headers = await self._exchange.read(http, taken, "oip_infer")
            else:
                raw = await read_body(http, taken.account.take)
                request, headers = self._exchange.noted(http, oip_json.infer(joined(raw, length)))
            return await self._exchange.fly_whole(http, taken, _of(http, request), headers, OipAnswer)

    async def generate(self, http: web.Request) -> web.StreamResponse:
        """A text, and what follows it."""
        return await self._generate(http, streams=False)

    async def generate_stream(self, http: web.Request) -> web.StreamResponse:
        """The same as events, while it comes."""
        return await self._generate(http, streams=True)

    async def _generate(self, http: web.Request, *, streams: bool) -> web.StreamResponse:
        with self._service.request("http") as taken:
            self._service.glance(http[TENANT])
            request, headers = await self._exchange.read(http, taken, "oip_generate")
            if request.told["streams"] not in (None, streams):
                other = "generate" if streams else "generate_stream"
                raise InvalidArgumentError("stream", f"must be {str(streams).lower()} or absent here; there is {other}")
            echo = not (streams if request.told["exclude_input"] is None else request.told["exclude_input"])
            request = replace(_of(http, request), stream=streams, echo=echo)
            return await self._exchange.fly(http, taken, request, headers, GenerateAnswer)


def _named(http: web.Request) -> str:
    oip_models.check_version(http.match_info.get("version", ""))
    return http.match_info["model"]


def _of(http: web.Request, request: TextRequest) -> TextRequest:
    return replace(request, model=_named(http))


def plain(message: Message) -> dict[str, Any]:
    """A message as JSON: numbers as numbers, which protobuf's own form writes as texts where they have 64 bits."""
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            if value:
                found[field.name] = [_plain(field, each) for each in value]
        elif field.message_type is None or message.HasField(field.name):
            found[field.name] = _plain(field, value)
    return found


def _plain(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value
