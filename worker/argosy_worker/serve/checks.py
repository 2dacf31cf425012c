"""Checks of a request's fields that are no sampling parameters."""

import re

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError

_ADDRESS = re.compile(r"([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")
"""A host's name or address, and a port: no other scheme of gRPC's can be asked for."""


def check_address(source: str) -> None:
    """Refuse what is no address of a worker. Empty: there is none.

    Raises:
        InvalidArgumentError: field `kv_source`.

    """
    if source and (len(source) > limits.MAX_ADDRESS or not _ADDRESS.fullmatch(source)):
        raise InvalidArgumentError("kv_source", "must be host:port, with an IPv6 address in brackets")


def check_request_id(request_id: str) -> None:
    """Refuse an id that is empty, too long, or not printable.

    Raises:
        InvalidArgumentError: field `request_id`.

    """
    if not 0 < len(request_id) <= limits.MAX_REQUEST_ID:
        raise InvalidArgumentError(
            "request_id", f"has {len(request_id)} characters; must have 1 to {limits.MAX_REQUEST_ID}"
        )
    if not request_id.isprintable():
        raise InvalidArgumentError("request_id", "has characters that cannot be printed")
