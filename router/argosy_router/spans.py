"""The spans of one client's request: its own, and one for each attempt at a worker. No text, no token, no name but ids.

Made only where traces are wanted (`argosy_api.tracing`): elsewhere nobody has one of these.
"""

import time
from collections.abc import Mapping
from typing import Any

from argosy_api import tracing as names
from argosy_api.tracing import Tracing
from argosy_router.ask import Ask, Caller
from argosy_router.clock import now
from argosy_router.routing.dispatch import Decision


class RequestSpan:
    """From a request's coming to its end."""

    def __init__(self, tracing: Tracing, ask: Ask, caller: Caller, model: str, began: float) -> None:
        """`model`: the deployment's own name. `began`: seconds of `clock.now`."""
        operation = "embeddings" if ask.embeds else "chat" if ask.messages else "text_completion"
        params = ask.params
        attributes: dict[str, Any] = {
            names.OPERATION: operation,
            names.PROVIDER_NAME: names.PROVIDER,
            names.REQUEST_MODEL: model,
            names.RESPONSE_MODEL: model,
            names.TEMPERATURE: params.temperature,
            names.TOP_P: params.top_p,
            names.CHOICES: ask.choices,
            "argosy.request_id": caller.request_id,
        }
        if not ask.fill_context:
            attributes[names.MAX_TOKENS] = params.max_tokens
        if params.top_k:
            attributes[names.TOP_K] = params.top_k
        if params.seed is not None:
            attributes[names.SEED] = params.seed
        began_ns = time.time_ns() - int(1e9 * (now() - began))
        self._tracing = tracing
        self.finish_reasons: list[str] = []
        self._span = tracing.span(f"{operation} {model}", "server", attributes, carried=caller.trace, began_ns=began_ns)

    def attempt(self, decision: Decision, number: int) -> "AttemptSpan":
        """One at a worker begins."""
        return AttemptSpan(self._tracing, self, decision, number)

    def child(self, name: str, attributes: Mapping[str, Any]) -> Any:
        """A span below this one, for what is asked of others."""
        return self._tracing.span(name, "client", attributes, parent=self._span)

    def end(self, code: str, *, prompt: int, cached: int, answer: int, first_s: float | None) -> None:
        """It has ended, with a status's name; tokens of all choices, and seconds to the first one of any."""
        attributes: dict[str, Any] = {
            names.INPUT_TOKENS: prompt,
            names.CACHED_TOKENS: cached,
            names.OUTPUT_TOKENS: answer,
            names.FINISH_REASONS: self.finish_reasons,
        }
        if first_s is not None:
            attributes[names.FIRST_CHUNK_S] = first_s
        self._tracing.end(self._span, attributes, error="" if code == "OK" else code)


class AttemptSpan:
    """From the call of a worker to its end."""

    def __init__(self, tracing: Tracing, request: RequestSpan, decision: Decision, number: int) -> None:
        attributes = {
            **names.GENERATE,
            "argosy.worker": decision.worker,
            "argosy.attempt": number,
            "argosy.routing.policy": decision.policy,
            "argosy.routing.reason": decision.reason,
            "argosy.routing.cost": decision.cost_s,
            "argosy.routing.cached_tokens": decision.cached,
            "argosy.routing.candidates": decision.candidates,
        }
        if decision.source:
            attributes["argosy.routing.source"] = decision.source
        self._tracing, self._request = tracing, request
        self._ended = False
        self._span = request.child("argosy.v1.Worker/Generate", attributes)
        self.metadata = tracing.carry(self._span)
        """For the call."""

    def end(self, *, tokens: int, finish: str = "", lost: str = "") -> None:
        """It is over, with so many tokens of the answer there, and for a reason of either kind. May be called twice."""
        if self._ended:
            return
        self._ended = True
        attributes: dict[str, Any] = {"argosy.answer_tokens": tokens}
        if finish:
            attributes[names.FINISH_REASONS] = [finish]
            self._request.finish_reasons.append(finish)
        self._tracing.end(self._span, attributes, error=lost)
