"""The id by which a client, a gateway and our logs know a request."""

import secrets

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError


def request_id(given: str | None) -> str:
    """The id that a header brings, or a new one: what a gateway writes there is no reason to refuse work."""
    return given if given and _fit_for_logs(given) else secrets.token_hex(12)


def check_request_id(given: str, *, field: str) -> str:
    """The id that a field of the request itself brings: answers are matched by it, so it cannot be replaced.

    Raises:
        InvalidArgumentError: too long, or with characters that have no business in logs.

    """
    if not _fit_for_logs(given):
        raise InvalidArgumentError(field, f"must be at most {limits.MAX_REQUEST_ID} printable characters of ASCII")
    return given


def _fit_for_logs(text: str) -> bool:
    return len(text) <= limits.MAX_REQUEST_ID and text.isascii() and text.isprintable()
