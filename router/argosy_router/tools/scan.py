"""One tool call out of JSON that comes character by character.

    {"name": NAME, "arguments": VALUE}

The value is handed on as it was written, character by character, once the name is known. What is no such object is
given back as text, as long as nothing of it was handed on.
"""

import json
from enum import Enum, auto


class State(Enum):
    """How far a call has come."""

    OPEN = auto()
    DONE = auto()
    BROKEN = auto()
    """It is no call; `Scan.raw` has all of its text."""


class _Value:
    """Finds the end of a JSON value. Looks at quotes and brackets only: what is between them is the caller's matter."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self._depth = 0
        self._quoted = self._escaped = False
        self._begun = False

    def push(self, c: str) -> bool | None:
        """Whether `c` belongs to the value: None while it is still blank before it; False at the first one after it."""
        if not self._begun:
            if c.isspace():
                return None
            if c in ",}]:":
                return False
            self._begun = True
        elif not self._depth and not self._quoted and self._ends_before(c):
            return False
        self._note(c)
        self.text.append(c)
        return True

    def _ends_before(self, c: str) -> bool:
        """Of a value that is closed, or a number or word, which has no closing mark of its own."""
        return self.text[-1] in '"}]' or c.isspace() or c in ",}]"

    def _note(self, c: str) -> None:
        if self._quoted:
            if self._escaped:
                self._escaped = False
            elif c == "\\":
                self._escaped = True
            elif c == '"':
                self._quoted = False
        elif c == '"':
            self._quoted = True
        elif c in "{[":
            self._depth += 1
        elif c in "}]":
            self._depth -= 1


class Scan:
    """One object, from its opening brace."""

    def __init__(self, names: frozenset[str], arguments: tuple[str, ...]) -> None:
        self.state = State.OPEN
        self.raw: list[str] = []
        self.name = ""
        """Of the tool, once it is known to be one of `names`."""
        self._names, self._keys = names, arguments
        self._arguments = ""
        self._key = ""
        self._value: _Value | None = None
        self._handed = 0
        self._place = "{"

    def push(self, c: str) -> str:
        """Takes one character; returns what of the arguments may be handed on."""
        self.raw.append(c)
        if self._value is not None:
            return self._in_value(c)
        if c.isspace():
            return ""
        if self._place == "{" and c == "{":
            self._place = "key or end"
        elif self._place in ("key or end", "key") and c == '"':
            self._begin("key", c)
        elif self._place == ":" and c == ":":
            self._begin("value", "")
        elif self._place in (",", "key or end") and c == "}":
            return self._finish()
        elif self._place == "," and c == ",":
            self._place = "key"
        else:
            self.state = State.BROKEN
        return ""

    def _begin(self, place: str, first: str) -> None:
        self._place, self._value = place, _Value()
        if first:
            self._value.push(first)

    def _in_value(self, c: str) -> str:
        value = self._value
        if value is None:
            return ""
        belongs = value.push(c)
        if belongs is None:
            return ""
        if belongs:
            return self._ready(value)
        self._value = None
        if not value.text:
            self.state = State.BROKEN
            return ""
        handed = self._end(value)
        if self.state is State.OPEN:  # the character itself stands after the value
            self.raw.pop()
            handed += self.push(c)
        return handed

    def _ready(self, value: _Value) -> str:
        """What of an argument's value may go out already."""
        if self._place != "value" or self._key not in self._keys or not self.name:
            return ""
        ready = "".join(value.text[self._handed :])
        self._handed = len(value.text)
        return ready

    def _end(self, value: _Value) -> str:
        """A key or a value is complete."""
        text = "".join(value.text)
        if self._place == "key":
            self._place, self._key = ":", _string(text) or ""
            return ""
        self._place = ","
        if self._key == "name":
            name = _string(text)
            if name not in self._names or self.name:
                self.state = State.BROKEN
                return ""
            self.name = name or ""
            return self._arguments
        if self._key in self._keys:
            ready = self._ready(value)
            self._arguments = text
            self._handed = 0
            self._keys = ()
            return ready
        return ""

    def _finish(self) -> str:
        """The closing brace: a call without arguments has none."""
        self.state = State.DONE if self.name else State.BROKEN
        return "{}" if self.name and self._keys else ""


def _string(text: str) -> str | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, str) else None
