"""Errors in the shape that each protocol's clients understand."""

from collections.abc import Container
from typing import Any, NamedTuple

from aiohttp import web

from argosy_api.errors import ArgosyError, InvalidArgumentError, NotFoundError


class Fault(NamedTuple):
    """What went wrong, in no protocol's terms."""

    message: str
    status: int
    """Of HTTP."""
    field: str | None = None
    reason: str | None = None
    request_id: str = ""


def fault_of(error: ArgosyError, request_id: str = "") -> Fault:
    """An error of ours."""
    field = error.field if isinstance(error, InvalidArgumentError) else None
    return Fault(error.message, error.http_status, field, error.reason, request_id)


_OPENAI = {
    400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 405: "invalid_request_error",
    413: "invalid_request_error", 429: "rate_limit_error",
}  # fmt: skip
_ANTHROPIC = {
    400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 405: "invalid_request_error",
    413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip


def openai(fault: Fault) -> dict[str, Any]:
    """`{"error": {message, type, param, code}}`. Of a model that is not there clients look at its code."""
    kind = _OPENAI.get(fault.status, "server_error")
    if fault.reason == NotFoundError.reason:
        fault = fault._replace(field="model", reason="model_not_found")
    return {"error": {"message": fault.message, "type": kind, "param": fault.field, "code": fault.reason}}


def anthropic(fault: Fault) -> dict[str, Any]:
    """`{"type": "error", "error": {type, message}, "request_id"}`."""
    kind = _ANTHROPIC.get(fault.status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": fault.message}, "request_id": fault.request_id}


def ollama(fault: Fault) -> dict[str, Any]:
    """`{"error": message}`, as Triton has it, too."""
    return {"error": fault.message}


def is_anthropics(request: web.Request) -> bool:
    """Whether a client of that API asks: some of its paths are OpenAI's, too."""
    return _is_anthropics(request.path, request.headers)


def _is_anthropics(path: str, headers: Container[str]) -> bool:
    return path.startswith("/v1/messages") or "anthropic-version" in headers


def error_body(request: web.Request, fault: Fault) -> dict[str, Any]:
    """In the dialect of whoever asked."""
    return body_for(request.path, request.headers, fault)


def body_for(path: str, headers: Container[str], fault: Fault) -> dict[str, Any]:
    """The same of a request that is not ours; names of `headers` in small letters."""
    if path.startswith(("/api/", "/v2")):
        return ollama(fault)
    return anthropic(fault) if _is_anthropics(path, headers) else openai(fault)
