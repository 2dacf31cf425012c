"""Triton's binary tensors over HTTP: a JSON head, and behind it the values of tensors that name their size there."""

from typing import Any, NamedTuple

import orjson

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError
from argosy_router.fronts import oip_tensors
from argosy_router.fronts.fields import parse_json

LENGTH = "inference-header-content-length"
"""The header of requests and answers that tells the size of the JSON."""
_SIZE = "binary_data_size"
_MOST_HEAD = 64 * 1024
"""Bytes of the JSON: prompts stand behind it."""


class Packed(NamedTuple):
    """A body that is not JSON alone, and the headers that say so."""

    body: bytes
    headers: dict[str, str]


def joined(raw: bytes, length: str) -> dict[str, Any]:
    """The request as if all its values stood in the JSON.

    Raises:
        InvalidArgumentError: sizes that do not add up, or values that are not what their datatype says.

    """
    if not (length.isascii() and length.isdigit()) or len(length) > len(str(limits.MAX_BODY_BYTES)):
        raise InvalidArgumentError(LENGTH, "must be a number of bytes")
    size = int(length)
    if size > min(len(raw), _MOST_HEAD):
        raise InvalidArgumentError(LENGTH, f"is {size}; at most {min(len(raw), _MOST_HEAD)} here")
    document, at = parse_json(raw[:size]), size
    inputs = document.get("inputs")
    for i, tensor in enumerate(inputs if isinstance(inputs, list) else ()):
        parameters = tensor.get("parameters") if isinstance(tensor, dict) else None
        if not isinstance(parameters, dict) or _SIZE not in parameters:
            continue
        if "data" in tensor:
            raise InvalidArgumentError(f"inputs[{i}].data", f"stands beside {_SIZE}")
        width = parameters.pop(_SIZE)
        if isinstance(width, bool) or not isinstance(width, int) or not 0 <= width <= len(raw) - at:
            raise InvalidArgumentError(f"inputs[{i}].parameters.{_SIZE}", f"must be 0 to {len(raw) - at} bytes here")
        tensor["data"] = _values(str(tensor.get("name")), tensor.get("datatype"), raw[at : at + width], i)
        at += width
    if at != len(raw):
        raise InvalidArgumentError("body", f"has {len(raw) - at} bytes that belong to no input")
    return document


def _values(name: str, datatype: Any, raw: bytes, i: int) -> list[Any]:
    oip_tensors.check_name(name, i, ())
    oip_tensors.check_datatype(name, str(datatype))
    values = oip_tensors.unpack(name, str(datatype), raw)
    try:
        return [value.decode() if isinstance(value, bytes) else value for value in values]
    except UnicodeDecodeError:
        raise InvalidArgumentError(name, "is not UTF-8") from None


def packed(document: dict[str, Any], values: list[bytes]) -> Packed:
    """An answer: `document` has the sizes of these values."""
    head = orjson.dumps(document)
    headers = {LENGTH: str(len(head)), "content-type": "application/octet-stream"}
    return Packed(b"".join([head, *values]), headers)
