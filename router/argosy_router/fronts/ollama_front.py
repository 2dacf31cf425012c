"""Ollama's paths: chat, generate, and what is served. Models come and go with their resources, not by clients."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from argosy_router.clock import now
from argosy_router.fleet.deployment import Named
from argosy_router.fronts.embeddings_answer import Embeddings, OllamaEmbedding, OllamaEmbeddings
from argosy_router.fronts.exchange import Exchange, caller, send
from argosy_router.fronts.ollama_answer import OllamaAnswer, stamp
from argosy_router.fronts.routes import Route, get, post
from argosy_router.fronts.text_request import TextRequest
from argosy_router.fronts.versions import installed_version


class OllamaFront:
    """Handlers over the exchange."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def routes(self) -> list[Route]:
        """What it serves."""
        return [
            get("/api/version", self.version),
            get("/api/tags", self.tags),
            get("/api/ps", self.running),
            post("/api/show", self.show, "ollama_show"),
            post("/api/chat", self.chat, "ollama_chat"),
            post("/api/generate", self.generate, "ollama_generate"),
            post("/api/embed", self.embed, "ollama_embed"),
            post("/api/embeddings", self.embeddings, "ollama_embeddings"),
        ]

    async def version(self, _: web.Request) -> web.Response:
        """The router's version, which is none of Ollama's."""
        return web.json_response({"version": installed_version()})

    async def tags(self, _: web.Request) -> web.Response:
        """The models that requests may name, and their adapters."""
        return web.json_response({"models": [_listed(named) for named in self._served()]})

    async def running(self, _: web.Request) -> web.Response:
        """Those of them that have a worker now."""
        ready = [
            {**_listed(named), "context_length": named.deployment.card.facts.max_model_len}
            for named in self._served()
            if named.deployment.card is not None and named.deployment.candidates(now(), frozenset())
        ]
        return web.json_response({"models": ready})

    async def show(self, http: web.Request) -> web.Response:
        """What is known of one."""
        service = self._exchange.service
        with service.request("http") as taken:
            request, headers = await self._read(http, taken, "ollama_show")
            card = await service.card(taken, request.model, caller(http))
            named, facts = service.fleet.named(request.model), card.facts
            able = ["completion", *(["tools"] if card.text.chats else ()), *(["thinking"] if card.text.thinks else ())]
            document = {
                "modelfile": "", "parameters": "", "template": "", "details": _details(named), "capabilities": able,
                "modified_at": _since(named),
                "model_info": {
                    "general.architecture": facts.architecture,
                    f"{facts.architecture}.context_length": facts.max_model_len,
                    f"{facts.architecture}.vocab_size": facts.vocab_size,
                },
            }  # fmt: skip
            return await send(http, document, headers)

    async def chat(self, http: web.Request) -> web.StreamResponse:
        """A chat's next message."""
        return await self._answer(http, "ollama_chat")

    async def generate(self, http: web.Request) -> web.StreamResponse:
        """An answer to a prompt."""
        return await self._answer(http, "ollama_generate")

    async def embed(self, http: web.Request) -> web.StreamResponse:
        """Texts as vectors of the length 1."""
        return await self._embedded(http, "ollama_embed", OllamaEmbeddings)

    async def embeddings(self, http: web.Request) -> web.StreamResponse:
        """One text as a vector of the length 1, as clients asked before."""
        return await self._embedded(http, "ollama_embeddings", OllamaEmbedding)

    async def _embedded(self, http: web.Request, kind: str, made: type[Embeddings]) -> web.StreamResponse:
        with self._exchange.service.request("http") as taken:
            request, headers = await self._read(http, taken, kind)
            return await self._exchange.fly_whole(http, taken, request, headers, made)

    async def _answer(self, http: web.Request, kind: str) -> web.StreamResponse:
        service = self._exchange.service
        with service.request("http") as taken:
            request, headers = await self._read(http, taken, kind)
            if request.messages or request.prompts:
                return await self._exchange.fly(http, taken, request, headers, OllamaAnswer)
            # who asks for nothing wants the model loaded: here it is, once a worker is there
            await service.card(taken, request.model, caller(http))
            said = {"response": ""} if request.told["generates"] else {"message": {"role": "assistant", "content": ""}}
            document = {"model": request.model, "created_at": stamp(datetime.now(UTC)), **said}
            return await send(http, {**document, "done": True, "done_reason": "load"}, headers)

    async def _read(self, http: web.Request, taken: Any, kind: str) -> tuple[TextRequest, dict[str, str]]:
        """The request, its model by the name that it has here."""
        request, headers = await self._exchange.read(http, taken, kind)
        return replace(request, model=self._exchange.service.fleet.known_as(request.model)), headers

    def _served(self) -> Iterable[Named]:
        deployments = {d.name: d for d in self._exchange.service.fleet.deployments}.values()
        return [Named(d, adapter) for d in deployments for adapter in ("", *sorted(d.adapters))]


def _since(named: Named) -> str:
    return stamp(datetime.fromtimestamp(int(named.deployment.created_at), UTC))


def _listed(named: Named) -> dict[str, Any]:
    document: dict[str, Any] = {"name": named.name, "model": named.name, "modified_at": _since(named)}
    card = named.deployment.card
    if card is not None:
        document["digest"] = named.deployment.adapters.get(named.adapter) or card.facts.fingerprint
    return {**document, "details": _details(named)}


def _details(named: Named) -> dict[str, Any]:
    card = named.deployment.card
    if card is None:
        return {}
    details: dict[str, Any] = {
        "family": card.facts.architecture, "families": [card.facts.architecture],
        "quantization_level": card.facts.quantization,
    }  # fmt: skip
    return {**details, "parent_model": named.deployment.name} if named.adapter else details
