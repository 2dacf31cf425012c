"""Reading a JSON object field by field: every field is either taken, with its type checked, or refused by name."""

import difflib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError


def parse_json(raw: bytes | str, *, field: str = "body") -> dict[str, Any]:
    """A JSON object, strictly: no NaN or Infinity, nothing beside it.

    Raises:
        InvalidArgumentError: with the place of the fault.

    """
    try:
        document = json.loads(raw, parse_constant=_refuse_constant)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(field, error.message.partition(": ")[2]) from None
    except json.JSONDecodeError as error:
        raise InvalidArgumentError(
            field, f"is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        ) from None
    except RecursionError:
        raise InvalidArgumentError(field, "is nested too deeply") from None
    except ValueError as error:  # not UTF-8, or a number of thousands of digits
        problem = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else "has a number with too many digits"
        raise InvalidArgumentError(field, problem) from None
    if not isinstance(document, dict):
        raise InvalidArgumentError(field, f"is {kind(document)}; must be an object")
    return document


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidArgumentError("body", f"has the number {name}, which JSON does not have")


def kind(value: Any) -> str:
    """JSON's name of a value's type."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "an array" if isinstance(value, list) else "an object"


_seen: ContextVar[dict[str, dict[str, Any]] | None] = ContextVar("seen", default=None)


@contextmanager
def recorded() -> Iterator[dict[str, dict[str, Any]]]:
    """Which fields parsers look for, by their paths, and what may stand there, in words of JSON Schema."""
    found: dict[str, dict[str, Any]] = {}
    token = _seen.set(found)
    try:
        yield found
    finally:
        _seen.reset(token)


_MAX_NUMBER = 40
"""Characters of a number that is written as a text."""
MAX_MISTYPED = 64
"""Length up to which an unknown name is compared with the known ones."""


class Fields:
    """An object's fields, each taken once. null counts as not given. `end` refuses what nobody took.

    `path` stands before the fields' names in errors; `paths` has another such beginning for single fields. With
    `texts` a number or a boolean may be written as a text.
    """

    def __init__(
        self, document: dict[str, Any], *, path: str = "", paths: Mapping[str, str] | None = None, texts: bool = False
    ) -> None:
        self._rest = dict(document)
        self._path = path
        self._paths = paths or {}
        self._texts = texts
        self._known: set[str] = set()
        self._seen = _seen.get()
        self.ignored: list[str] = []
        """Fields that were given, change nothing here, and are told of."""

    def path(self, name: str, *, shown: str = "") -> str:
        """The field's path from the top of the request."""
        # JSON may spell names that are no Unicode text, and that no answer could repeat
        readable = (shown or name).encode("utf-8", "backslashreplace").decode()
        return f"{self._paths.get(name, self._path)}{readable}"

    def raw(self, name: str) -> Any:
        """The value, or None when it is not given."""
        return self._take(name)

    def _take(self, name: str, **schema: str) -> Any:
        """The same; `schema` is what may stand there. Of a hundred fields a request has five: it costs little."""
        self._known.add(name)
        if self._seen is not None:
            told = self._seen.setdefault(self.path(name), {})
            told.pop("enum", None)  # what is neutral elsewhere may be more here
            told.update(schema)
        return self._rest.pop(name, None)

    def _plain(self, value: Any) -> Any:
        """The value; what a text says, where it may be one and says a number or a boolean."""
        if not self._texts or not isinstance(value, str) or len(value) > _MAX_NUMBER:
            return value
        try:
            said = json.loads(value.strip().lower(), parse_constant=_refuse_constant)
        except (ValueError, InvalidArgumentError):
            return value
        return said if isinstance(said, int | float) else value

    def wrong(self, name: str, value: Any, wanted: str) -> InvalidArgumentError:
        """The error for a value of a wrong type."""
        return InvalidArgumentError(self.path(name), f"is {kind(value)}; must be {wanted}")

    def integer(self, name: str) -> int | None:
        """An integer; its range is checked with the sampling parameters."""
        if (value := self._take(name, type="integer")) is None:
            return None
        value = self._plain(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise self.wrong(name, value, "an integer")
        return value

    def number(self, name: str) -> float | None:
        """An integer or a fraction."""
        if (value := self._take(name, type="number")) is None:
            return None
        value = self._plain(value)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise self.wrong(name, value, "a number")
        return value

    def boolean(self, name: str) -> bool | None:
        """True or false."""
        if (value := self._take(name, type="boolean")) is None:
            return None
        value = self._plain(value)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(name, value, "a boolean")
        return value

    def string(self, name: str, *, limit: int = limits.MAX_PROMPT_BYTES) -> str | None:
        """Text of at most `limit` characters."""
        if (value := self._take(name, type="string")) is None:
            return None
        if not isinstance(value, str):
            raise self.wrong(name, value, "a string")
        if len(value) > limit:
            raise InvalidArgumentError(self.path(name), f"has {len(value)} characters; at most {limit}")
        self.check_unicode(name, value)
        return value

    def check_unicode(self, name: str, text: str) -> None:
        """Refuse half of a surrogate pair, which JSON can say and UTF-8 cannot."""
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidArgumentError(self.path(name), "is not valid Unicode text") from None

    def array(self, name: str) -> list[Any] | None:
        """A list of anything."""
        value = self._take(name, type="array")
        if value is not None and not isinstance(value, list):
            raise self.wrong(name, value, "an array")
        return value

    def neutral(self, name: str, *allowed: Any) -> None:
        """A field of the protocol that cannot be honoured: refused, unless its value asks for nothing."""
        if self._seen is not None:
            self._seen.setdefault(self.path(name), {"enum": [None, *allowed]})
        self._known.add(name)
        value = self._rest.pop(name, None)
        if value is None or any(value == a and isinstance(value, bool) == isinstance(a, bool) for a in allowed):
            return
        shown = " or ".join(["absent", *(json.dumps(a) for a in allowed)])
        raise InvalidArgumentError(self.path(name), f"is not supported here; must be {shown}")

    def passed_over(self, name: str, *neutral: Any) -> None:
        """A field of other servers that changes no token, and means nothing here."""
        value = self._take(name, description="Changes nothing here.")
        if value is not None and value not in neutral:
            self.ignored.append(self.path(name))

    def end(self) -> None:
        """Nothing else may be there."""
        if self._rest:
            name = min(self._rest)
            shown = name[:100]
            # difflib takes half a second for a name of 1 MB; and nobody mistypes one of this length
            close = difflib.get_close_matches(name, self._known, n=1, cutoff=0.7) if len(name) <= MAX_MISTYPED else []
            hint = f"; did you mean {close[0]}?" if close else ""
            raise InvalidArgumentError(self.path(name, shown=shown), f"is not a field of this request{hint}")
