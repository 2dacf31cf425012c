"""What a page of the documentation has its reader type: fenced blocks, and commands within them and in the text."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = tuple(
    sorted(
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "charts/argosy/README.md", *(ROOT / "docs").glob("*.md"))
    )
)  # fmt: skip
PROGRAMS = ("argosy", "helm", "kubectl", "make", "python")

_FENCE = re.compile(r"^ *(`{3,})(\w*)\s*$")
_MARKER = re.compile(r"^<!-- not run: (.+) -->$")
_SPAN = re.compile(r"`([^`\n]+)`")
_ASSIGNED = re.compile(r"^[A-Za-z_]\w*=")
_REDIRECTED = re.compile(r"\s[<>]\s*\S+")
_LOOP = re.compile(r"^(do|then) ")
_WORDS = ("do", "done", "then", "fi")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block, and why no test runs it (empty: one does)."""

    page: str
    line: int
    """Of its first line of text, from 1."""
    heading: str
    language: str
    text: str
    not_run: str = ""

    @property
    def script(self) -> str:
        """What is typed: all of a shell's block, of a `console` what follows its prompts; of all else nothing."""
        if self.language == "bash":
            return self.text
        if self.language != "console":
            return ""
        return "".join(line.removeprefix("$ ") for line in self.text.splitlines(keepends=True) if line[:2] == "$ ")


@dataclass(frozen=True, slots=True)
class Command:
    """One program and its arguments, as a shell would split them."""

    page: str
    line: int
    words: tuple[str, ...]
    whole: bool = True
    """Written to be typed; False: mentioned in a text, perhaps without all of its arguments."""

    @property
    def program(self) -> str:
        """Without folder and version, `kubectl argosy` as what it is."""
        name = self.words[0].rpartition("/")[2]
        if self.words[:2] == ("kubectl", "argosy"):
            return "argosy"
        return "python" if name == "python3" else name

    @property
    def arguments(self) -> tuple[str, ...]:
        """Of the program."""
        return self.words[2:] if self.words[:2] == ("kubectl", "argosy") else self.words[1:]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {shlex.join(self.words)}"


def blocks(page: str, text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found, heading, marker, opened, start, language = [], "", "", "", 0, ""
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        fence = _FENCE.match(line)
        if opened:
            if fence and fence[1] == opened and not fence[2]:
                body = "".join(f"{part}\n" for part in lines[start : number - 1])
                found.append(Block(page, start + 1, heading, language, body, marker))
                opened = marker = ""
        elif fence:
            opened, language, start = fence[1], fence[2], number
        elif marked := _MARKER.match(line):
            marker = marked[1]
        elif line.strip():
            heading, marker = (line.lstrip("# ") if line.startswith("#") else heading), ""
    return found


def commands(block: Block) -> list[Command]:
    """Every command of a block, those within `$( )` and loops, too."""
    return list(_commands(block.page, block.line, block.script))


def mentions(page: str, text: str) -> list[Command]:
    """Commands in a text's `code spans`: a known program with an argument."""
    found, within = [], False
    for number, line in enumerate(text.splitlines(), 1):
        if _FENCE.match(line):
            within = not within
        elif not within:
            spans = (span[1] for span in _SPAN.finditer(line) if "…" not in span[1])
            words = [shlex.split(_REDIRECTED.sub("", span)) if span.startswith(PROGRAMS) else [] for span in spans]
            found += [Command(page, number, tuple(w), whole=False) for w in words if len(w) > 1 and w[0] in PROGRAMS]
    return found


def _commands(page: str, line: int, script: str) -> Iterator[Command]:
    for start, statement in _statements(script):
        text = _LOOP.sub("", statement)
        if text.startswith("for ") or text in _WORDS:
            continue
        while assigned := _ASSIGNED.match(text):
            value = text[assigned.end() :]
            if value.startswith("$("):
                yield from _commands(page, line + start, value[2:].removesuffix(")"))
                value = ""
            text = value.partition(" ")[2]
        words = shlex.split(_REDIRECTED.sub("", text))
        if words:
            yield Command(page, line + start, tuple(words))


def _statements(script: str) -> Iterator[tuple[int, str]]:
    """A script's simple commands, each with its line from 0: comments are gone, lines that go on are joined."""
    script = script.replace("\\\n", "  ") + "\n"
    quote, depth, line, start, text, comment = "", 0, 0, 0, "", False
    for char in script:
        comment = char != "\n" and (comment or (not quote and char == "#" and (not text or text[-1].isspace())))
        if not comment:
            if quote:
                quote = "" if char == quote else quote
            elif char in "'\"":
                quote = char
            elif char in "()":
                depth += 1 if char == "(" else -1
            if not quote and not depth and char in "\n;&|":
                if text:
                    yield start, text.strip()
                text = ""
            elif text or not char.isspace():
                start = start if text else line
                text += char
        line += char == "\n"
