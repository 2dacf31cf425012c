"""Texts into tokens and back, as vLLM has it: no worker is asked."""

from aiohttp import web

from argosy_router.fronts.exchange import Exchange, caller, send
from argosy_router.fronts.routes import Route, post


class TokensFront:
    """Handlers over the exchange."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def routes(self) -> list[Route]:
        """What it serves."""
        return [post("/tokenize", self.tokenize, "tokenize"), post("/detokenize", self.detokenize, "detokenize")]

    async def tokenize(self, http: web.Request) -> web.Response:
        """The tokens of a text, or of a chat as the model's template renders it."""
        service = self._exchange.service
        with service.request("http") as taken:
            request, headers = await self._exchange.read(http, taken, "tokenize")
            card, (prompt,) = await service.tokens(taken, request.ask(), caller(http))
            strings = None
            if request.told["strings"]:
                strings = [card.text.vocabulary.token_bytes(t).decode("utf-8", "replace") for t in prompt.tokens]
            document = {
                "count": len(prompt.tokens),
                "max_model_len": card.facts.max_model_len,
                "tokens": prompt.tokens,
                "token_strs": strings,
            }
            return await send(http, document, headers)

    async def detokenize(self, http: web.Request) -> web.Response:
        """The text that token ids stand for."""
        service = self._exchange.service
        with service.request("http") as taken:
            request, headers = await self._exchange.read(http, taken, "detokenize")
            card = await service.card(taken, request.model, caller(http))
            (prompt,) = request.prompts
            text = prompt if isinstance(prompt, str) else await card.text.decode(prompt, field="tokens")
            return await send(http, {"prompt": text}, headers)
