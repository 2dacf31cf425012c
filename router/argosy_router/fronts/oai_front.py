"""OpenAI's paths: completions, chat, responses, embeddings, and which models there are."""

from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from argosy_router.fleet.deployment import Named
from argosy_router.fronts.dialects import is_anthropics
from argosy_router.fronts.embeddings_answer import Embeddings
from argosy_router.fronts.exchange import Exchange
from argosy_router.fronts.oai_answer import Answer
from argosy_router.fronts.responses_answer import ResponseAnswer
from argosy_router.fronts.routes import Route, get, post


class OaiFront:
    """Handlers over the exchange."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def routes(self) -> list[Route]:
        """What it serves."""
        return [
            get("/v1/models", self.models),
            get("/v1/models/{model:.+}", self.model),
            post("/v1/completions", self.completions, "completions"),
            post("/v1/chat/completions", self.chat, "chat"),
            post("/v1/responses", self.responses, "responses"),
            post("/v1/embeddings", self.embeddings, "embeddings"),
        ]

    async def models(self, http: web.Request) -> web.Response:
        """The models that requests may name, and their adapters."""
        deployments = {d.name: d for d in self._exchange.service.fleet.deployments}.values()
        found = [Named(d, adapter) for d in deployments for adapter in ("", *sorted(d.adapters))]
        listed = [_model_object(http, named, named.name) for named in found]
        document: dict[str, Any] = {"object": "list", "data": listed}
        if is_anthropics(http):
            ends = {"first_id": listed[0]["id"] if listed else None, "last_id": listed[-1]["id"] if listed else None}
            document |= {"has_more": False, **ends}
        return web.json_response(document)

    async def model(self, http: web.Request) -> web.Response:
        """One of them."""
        name = http.match_info["model"]
        return web.json_response(_model_object(http, self._exchange.service.fleet.named(name), name))

    async def completions(self, http: web.Request) -> web.StreamResponse:
        """A text that goes on."""
        return await self._exchange.answer(http, "completions", Answer)

    async def chat(self, http: web.Request) -> web.StreamResponse:
        """A chat's next message."""
        return await self._exchange.answer(http, "chat", Answer)

    async def responses(self, http: web.Request) -> web.StreamResponse:
        """A response to an input, of which nothing is kept."""
        return await self._exchange.answer(http, "responses", ResponseAnswer)

    async def embeddings(self, http: web.Request) -> web.StreamResponse:
        """Texts as vectors of the length 1."""
        with self._exchange.service.request("http") as taken:
            request, headers = await self._exchange.read(http, taken, "embeddings")
            return await self._exchange.fly_whole(http, taken, request, headers, Embeddings)


def _model_object(http: web.Request, named: Named, name: str) -> dict[str, Any]:
    """Of a model, or of one of its adapters, under the name that it was asked for by."""
    created = named.deployment.created_at
    document: dict[str, Any] = {"id": name, "object": "model", "created": int(created), "owned_by": "argosy"}
    card = named.deployment.card
    if card is not None:
        document["max_model_len"] = card.facts.max_model_len
    if named.adapter:
        document["parent"] = named.deployment.name
    if is_anthropics(http):
        shown = datetime.fromtimestamp(int(created), UTC).isoformat().replace("+00:00", "Z")
        document |= {"type": "model", "display_name": name, "created_at": shown, "lifecycle": "active"}
    return document
