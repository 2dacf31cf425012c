"""Anthropic's paths: messages, and how many tokens they would be."""

from aiohttp import web

from argosy_router.fronts.anthropic_answer import MessageAnswer
from argosy_router.fronts.exchange import Exchange, caller, send
from argosy_router.fronts.routes import Route, post


class AnthropicFront:
    """Handlers over the exchange."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def routes(self) -> list[Route]:
        """What it serves."""
        return [
            post("/v1/messages", self.messages, "messages"),
            post("/v1/messages/count_tokens", self.count, "count_tokens"),
        ]

    async def messages(self, http: web.Request) -> web.StreamResponse:
        """A conversation's next message."""
        return await self._exchange.answer(http, "messages", MessageAnswer)

    async def count(self, http: web.Request) -> web.Response:
        """How many tokens a conversation is."""
        service = self._exchange.service
        with service.request("http") as taken:
            request, headers = await self._exchange.read(http, taken, "count_tokens")
            _, (prompt,) = await service.tokens(taken, request.ask(), caller(http))
            return await send(http, {"input_tokens": len(prompt.tokens)}, headers)
