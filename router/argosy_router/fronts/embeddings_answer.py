"""Embeddings in the shapes of OpenAI's and of Ollama's API."""

import asyncio
import base64
from array import array
from collections.abc import Sequence
from typing import Any

import orjson

from argosy_api.errors import InvalidArgumentError, UnavailableError
from argosy_router.clock import now
from argosy_router.fronts.gathered import Gathered
from argosy_router.fronts.text_request import TextRequest
from argosy_router.prepared import Prepared


class Embeddings:
    """Of one request. Each is made JSON by itself, so that many of them hold up nobody."""

    def __init__(self, request: TextRequest, prepared: Prepared) -> None:
        """Raises InvalidArgumentError: `dimensions` are not those that the model's embeddings have."""
        self.request = request
        self._size = prepared.card.facts.embedding_size
        wanted = request.told["dimensions"]
        if wanted is not None and wanted != self._size:
            problem = f"is {wanted}; this model's embeddings have {self._size} numbers, of which none can be left out"
            raise InvalidArgumentError("dimensions", problem)
        self._tokens = sum(len(prompt.tokens) for prompt in prepared.prompts)
        self._received_at = prepared.jobs[0].received_at or now()

    async def whole(self, gathered: Sequence[Gathered]) -> dict[str, Any]:
        """OpenAI's list."""
        data = []
        for i, one in enumerate(gathered):
            vector = self._vector(one)
            if self.request.told["form"] == "base64":
                shown: Any = base64.b64encode(array("f", vector).tobytes()).decode()
            else:
                shown = await _json(vector)
            data.append({"object": "embedding", "index": i, "embedding": shown})
        usage = {"prompt_tokens": self._tokens, "total_tokens": self._tokens}
        return {"object": "list", "data": data, "model": self.request.model, "usage": usage}

    def _vector(self, one: Gathered) -> list[float]:
        if len(one.embedding) != self._size:  # a worker of an earlier version passes over what asks for it
            raise UnavailableError("a worker gave no embedding; try again")
        return one.embedding


class OllamaEmbeddings(Embeddings):
    """The same for /api/embed."""

    async def whole(self, gathered: Sequence[Gathered]) -> dict[str, Any]:
        """Ollama's document; times in nanoseconds."""
        vectors = [await _json(self._vector(one)) for one in gathered]
        took = max(0, round((now() - self._received_at) * 1e9))
        return {
            "model": self.request.model, "embeddings": vectors, "total_duration": took, "load_duration": 0,
            "prompt_eval_count": self._tokens,
        }  # fmt: skip


class OllamaEmbedding(Embeddings):
    """The same for /api/embeddings."""

    async def whole(self, gathered: Sequence[Gathered]) -> dict[str, Any]:
        """Its one vector."""
        return {"embedding": await _json(self._vector(gathered[0]))}


async def _json(vector: list[float]) -> orjson.Fragment:
    await asyncio.sleep(0)
    return orjson.Fragment(orjson.dumps(vector))
