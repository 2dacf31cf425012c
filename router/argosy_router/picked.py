"""What a request's header says of the worker that was picked for it before it came here (`picking/`)."""

import re
from typing import NamedTuple

HEADER = "x-argosy-pick"
_FORM = re.compile(r"([0-9a-f]{16});([!-~]{1,253})")


class Picked(NamedTuple):
    """A worker's id, and the token by which the picker knows the request."""

    worker: str
    token: str


NO_PICK = Picked("", "")


def parsed(header: str | None) -> Picked:
    """What a `HEADER` says; nothing where there is none, or one of another form."""
    found = _FORM.fullmatch(header or "")
    return Picked(found[2], found[1]) if found else NO_PICK


def written(pick: Picked) -> str:
    """The `HEADER` that says it."""
    return f"{pick.token};{pick.worker}"
