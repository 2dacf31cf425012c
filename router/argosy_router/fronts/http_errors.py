"""What a client of HTTP is told of a fault: every one in its dialect, and of those that are not ours no detail."""

import logging

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from argosy_api.errors import ArgosyError, CancelledError, InternalError, OverloadedError, UnauthenticatedError
from argosy_router.fronts.dialects import Fault, error_body, fault_of
from argosy_router.fronts.exchange import REQUEST_ID, StreamedError
from argosy_router.fronts.request_ids import request_id

log = logging.getLogger(__name__)

_SHOWN = 100


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error as its dialect's error object; what is not ours is logged and told without details."""
    headers: dict[str, str] = {}
    try:
        request[REQUEST_ID] = headers["x-request-id"] = request_id(request.headers.get("x-request-id"))
        return await handler(request)
    except StreamedError as error:
        # cut, once the event is sent: tools that do not look at events take a stream that ends in order for an answer
        if request.transport is not None:
            request.transport.close()
        return error.response
    except UnauthenticatedError as error:
        return _told(request, error, {**headers, "www-authenticate": "Bearer"})
    except OverloadedError as error:
        return _told(request, error, {**headers, "retry-after": str(max(1, round(error.retry_after_s)))})
    except ArgosyError as error:
        return _told(request, error, headers)
    except web.HTTPException as error:
        allow = {"allow": error.headers["allow"]} if "allow" in error.headers else {}
        asked = f"{request.method} {request.path[:_SHOWN]}".encode("utf-8", "backslashreplace").decode()
        fault = Fault(f"{asked}: {error.reason}", error.status, request_id=headers.get("x-request-id", ""))
        return _response(request, fault, {**headers, **allow})
    except (ConnectionError, TimeoutError):  # the client is gone, or reads nothing
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=CancelledError.http_status)
    except Exception:
        log.exception("request %s failed", headers.get("x-request-id"))
        return _told(request, InternalError(f"internal error (request {headers.get('x-request-id')})"), headers)


def _told(request: web.Request, error: ArgosyError, headers: dict[str, str]) -> web.Response:
    return _response(request, fault_of(error, headers.get("x-request-id", "")), headers)


def _response(request: web.Request, fault: Fault, headers: dict[str, str]) -> web.Response:
    response = web.Response(
        text=orjson.dumps(error_body(request, fault)).decode(),
        status=fault.status,
        content_type="application/json",
        headers=headers,
    )
    if fault.status == 413:
        response.force_close()  # the rest of the body is not read
    return response
