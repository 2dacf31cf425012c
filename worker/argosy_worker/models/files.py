"""Reading the small text files beside the weights."""

import json
from pathlib import Path
from typing import Any

from argosy_api.errors import ModelInvalidError, ModelNotFoundError


def read_bytes(path: Path, limit: int) -> bytes:
    """All of a file of at most `limit` bytes. Raises ModelNotFoundError, ModelInvalidError."""
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise ModelNotFoundError(f"the model's folder has no file {path.name!r}") from error
    except OSError as error:
        raise ModelInvalidError(f"{path.name!r} cannot be read: {error.strerror}") from error
    if len(raw) > limit:
        raise ModelInvalidError(f"{path.name!r} has more than {limit} bytes")
    return raw


def read_json(path: Path, limit: int) -> dict[str, Any]:
    """A JSON object. Raises ModelNotFoundError, ModelInvalidError."""
    return parse_json(path.name, read_bytes(path, limit))


def parse_json(name: str, raw: bytes) -> dict[str, Any]:
    """The JSON object that the file `name` holds. Raises ModelInvalidError."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ModelInvalidError(f"{name!r} is no sound JSON: {error}") from error
    if not isinstance(found, dict):
        raise ModelInvalidError(f"{name!r} holds no JSON object")
    return found
