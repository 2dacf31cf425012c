"""Answers into text, reasoning and tool calls, while they come. However a text is cut, the parts are the same."""

from collections.abc import Callable
from dataclasses import dataclass, field

from argosy_router.tools.forms import THINK, THOUGHT, Form, Offer
from argosy_router.tools.scan import Scan, State

_CALL, _CALLED = "<tool_call>", "</tool_call>"
_MARK, _ARGS, _PYTHON = "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>"


@dataclass(slots=True)
class Part:
    """Of one call: what came anew."""

    number: int
    name: str = ""
    """With the first part."""
    arguments: str = ""


@dataclass(slots=True)
class Parts:
    """What a piece of text meant."""

    reasoning: str = ""
    content: str = ""
    calls: list[Part] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.reasoning or self.content or self.calls)


class Parser:
    """Of one answer."""

    def __init__(self, form: Form, offer: Offer | None, *, thinks: bool = False, thinking: bool = False) -> None:
        """`thinks`: reasoning may stand before the answer; `thinking`: the prompt has begun it already."""
        self.calls = 0
        self._form = form
        self._offer = offer if offer is not None and offer.parsed and offer.tools else None
        self._names = self._offer.names if self._offer is not None else frozenset[str]()
        self._out = Parts()
        self._held = ""
        self._scan: Scan | None = None
        self._named = False
        self._blank = ""
        self._words = False
        begin = self._text if self._offer is None or form is Form.HERMES else self._leading
        self._after_thinking = begin
        self._take: Callable[[str], None] = begin
        if thinking:
            self._take = self._thought
        elif thinks:
            self._take = self._before_thought

    def push(self, text: str) -> Parts:
        """What this piece brings."""
        for c in text:
            self._take(c)
        out, self._out = self._out, Parts()
        return out

    def finish(self) -> Parts:
        """What was held back, as nothing more comes."""
        if self._scan is not None:
            self._broken()
        held, self._held = self._held, ""
        if self._take == self._thought:
            self._out.reasoning += held
        else:
            self._say(held)
        if not self.calls:
            self._out.content += self._blank
        out, self._out = self._out, Parts()
        return out

    # --- reasoning

    def _before_thought(self, c: str) -> None:
        self._held += c
        begun = self._held.lstrip()
        if begun == THINK:
            self._held, self._take = "", self._thought
        elif not THINK.startswith(begun):
            self._replay(self._after_thinking)

    def _thought(self, c: str) -> None:
        self._held += c
        if self._held.endswith(THOUGHT):
            self._out.reasoning += self._held[: -len(THOUGHT)]
            self._held, self._take = "", self._blanks_after
            return
        keep = _overlap(self._held, THOUGHT)
        cut = len(self._held) - keep
        self._out.reasoning, self._held = self._out.reasoning + self._held[:cut], self._held[cut:]

    def _blanks_after(self, c: str) -> None:
        if not c.isspace():
            self._take = self._after_thinking
            self._take(c)

    # --- text, with tagged calls in it

    def _text(self, c: str) -> None:
        if self._offer is None:
            self._out.content += c
            return
        self._held += c
        if self._held.endswith(_CALL):
            self._say(self._held[: -len(_CALL)])
            self._held, self._take = "", self._tagged
            return
        keep = _overlap(self._held, _CALL)
        cut = len(self._held) - keep
        said, self._held = self._held[:cut], self._held[cut:]
        self._say(said)

    def _say(self, text: str) -> None:
        """Text beside calls: blanks before and after them are none of it."""
        for c in text:
            if c.isspace():
                self._blank += c
            else:
                self._out.content += (self._blank if self._words or not self.calls else "") + c
                self._blank, self._words = "", True

    def _tagged(self, c: str) -> None:
        if self._scan is None and c.isspace():
            self._held += c
            return
        self._scanned(c, after=self._close_tag, before=_CALL)

    def _close_tag(self, c: str) -> None:
        self._held += c
        begun = self._held.lstrip()
        if begun == _CALLED:
            self._held, self._take = "", self._text
        elif not _CALLED.startswith(begun):  # a call is a call without its closing tag, too
            self._replay(self._text)

    # --- calls that an answer begins with

    def _leading(self, c: str) -> None:
        """At the beginning: a call, an array of calls, or a text."""
        self._held += c
        begun = self._held.lstrip()
        for mark in (_MARK, _PYTHON):
            if begun.startswith(mark):
                begun = begun[len(mark) :].lstrip()
            elif mark.startswith(begun):
                return
        inside = begun if self._form is Form.LLAMA else begun.removeprefix("[").lstrip()
        if inside == "{":
            self._take = self._bare
            self._bare(c)
        elif inside and not (self._form is Form.MISTRAL and self._named_before(begun)):
            self._plain()

    def _named_before(self, begun: str) -> bool:
        """Whether `NAME{` stands here, or may come."""
        name, mark, _ = begun.partition("{")
        bare = name.partition(_ARGS)[0].strip() if _ARGS in name else name.strip()
        if mark and bare in self._names:
            self._scan = Scan(self._names, ("arguments",))
            self._held = begun[:-1]
            for c in f'{{"name":"{bare}","arguments":':
                self._scan.push(c)
            self._scan.raw = list(self._held)
            self._take = self._value_of_name
            self._value_of_name("{")
            return True
        return not mark and any(f"{known}{_ARGS}".startswith(begun) for known in self._names)

    def _value_of_name(self, c: str) -> None:
        """The arguments alone; the object around them was made up and is closed by us."""
        scan = self._scan
        if scan is None:
            return
        self._hand(scan, scan.push(c))
        if c == "}" and _closed("".join(scan.raw)[len(self._held) :]):
            scan.push("}")
            self._done(self._between)

    def _bare(self, c: str) -> None:
        self._scanned(c, after=self._between, before="")

    def _between(self, c: str) -> None:
        """After a call: another one, or the end."""
        self._held += c
        begun = self._held.strip()
        for mark in (_MARK, _PYTHON):
            if mark.startswith(begun):
                return
            begun = begun.removeprefix(mark).lstrip()
        rest = begun.lstrip(",;]").strip()
        if not rest:
            self._held = ""
        elif rest == "{":
            self._held = ""
            self._take = self._bare
            self._bare(c)
        elif self._form is Form.MISTRAL and self._named_before(rest):
            return
        else:
            self._plain()

    def _plain(self) -> None:
        """All that is held, and all that comes, is text."""
        held, self._held = self._held, ""
        self._take = self._say_on
        self._say(held)

    def _say_on(self, c: str) -> None:
        self._say(c)

    # --- a call

    def _scanned(self, c: str, *, after: Callable[[str], None], before: str) -> None:
        if self._scan is None:
            self._scan = Scan(self._names, ("arguments", "parameters"))
            self._held = before + self._held
            if c == "{" and self._held.endswith("{"):
                self._held = self._held[:-1]
            if self.calls and self._offer is not None and not self._offer.several:
                self._broken(c)
                return
        scan = self._scan
        self._hand(scan, scan.push(c))
        if scan.state is State.BROKEN:
            self._broken()
        elif scan.state is State.DONE:
            self._done(after)

    def _hand(self, scan: Scan, arguments: str) -> None:
        if not scan.name or (not arguments and self._named):
            return
        if not self._named:
            if not arguments:
                return
            self._out.calls.append(Part(self.calls, name=scan.name))
            self._named = True
        self._out.calls.append(Part(self.calls, arguments=arguments))

    def _done(self, after: Callable[[str], None]) -> None:
        self.calls += 1
        self._scan, self._named, self._held, self._take = None, False, "", after

    def _broken(self, more: str = "") -> None:
        """It was none: its text is text, unless a part of it is out as a call already."""
        scan, self._scan = self._scan, None
        text = self._held + "".join(scan.raw if scan is not None else ()) + more
        self._held = ""
        if self._named:
            self.calls += 1
            self._named = False
        else:
            self._say(text)
        self._take = self._text if self._form is Form.HERMES else self._say_on

    def _replay(self, to: Callable[[str], None]) -> None:
        held, self._held = self._held, ""
        self._take = to
        for c in held:
            self._take(c)


def _overlap(text: str, mark: str) -> int:
    """Length of the longest end of the text that the mark begins with."""
    return next((n for n in range(min(len(text), len(mark) - 1), 0, -1) if text.endswith(mark[:n])), 0)


def _closed(text: str) -> bool:
    """Whether the brackets of a JSON object are all closed."""
    depth, quoted, escaped = 0, False, False
    for c in text:
        if quoted:
            escaped, quoted = c == "\\" and not escaped, not (c == '"' and not escaped)
        elif c == '"':
            quoted = True
        else:
            depth += (c in "{[") - (c in "}]")
    return depth == 0
