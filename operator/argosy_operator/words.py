"""Sentences for people: short, whatever they are about, and without what could be a secret."""

import functools
import re
from collections.abc import Sequence

_NAMED = 3
_SECRETS = (
    # credentials in a URL; a password may hold anything but what ends an authority
    (re.compile(r"(?<=://)[^\s/?#@'\"]*(?:@[^\s/?#@'\"]*)*@"), "***@"),
    (re.compile(r"\b(hf_)[A-Za-z0-9]{8,}"), r"\1***"),
    (re.compile(r"(?i)\b((?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}"), r"\1***"),
    (re.compile(r"(?i)((?:password|passwd|secret|token|api_?key)\w*(?:\s*=|['\"]\s*:)\s*)[^\s,;&}]+"), r"\1***"),
)


def some_of(names: Sequence[str]) -> str:
    """The first names, and how many others there are."""
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def clip(text: str, length: int) -> str:
    """At most so many characters; an ellipsis stands for the rest."""
    return text if len(text) <= length else text[: length - 1] + "…"


@functools.lru_cache(maxsize=256)  # of a thousand pods that wait, most wait for the same
def redact(text: str) -> str:
    """Somebody else's words (a log, an exception) without credentials."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def quote(text: str, length: int) -> str:
    """Somebody else's words as a sentence of ours: on one line, without credentials, and short."""
    flat = clip(redact(" ".join(text.split())), length)
    return flat if flat.endswith((".", "!", "?", "…")) else flat + "."
