"""What the child process of `bodies` does: bodies of many values into requests. Token ids go back as u32."""

import pickle
from array import array
from dataclasses import replace
from typing import Any

from argosy_api.errors import InvalidArgumentError
from argosy_router.children.frames import Frame
from argosy_router.fronts.bodies import PARSERS
from argosy_router.fronts.fields import parse_json


def work(header: dict[str, Any], blobs: list[bytes]) -> Frame:
    """One body."""
    if header["op"] == "open":
        return {}, []
    try:
        request = PARSERS[header["op"]](parse_json(blobs[0]))
    except InvalidArgumentError as error:
        return {"field": error.field, "problem": error.message.removeprefix(f"{error.field}: ")}, []
    ids = [array("I", p).tobytes() for p in request.prompts if not isinstance(p, str)]
    return {}, [pickle.dumps(replace(request, prompts=()) if ids else request), *ids]
