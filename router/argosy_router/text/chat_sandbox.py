"""The Jinja environment of chat templates: immutable and sandboxed, and with a bound on what one operation can make.

The sandbox keeps a template from Python's internals; it does not keep `'x' * 10**10` from the memory. A template comes
from the served model's own files, so this is a second wall, not the first one.
"""

import datetime as dt
import json
import re
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_MADE = 1_000_000
"""Longest string or list that one operation may make, and largest number that a call may be given."""
MAX_POWER = 64
MAX_INDENT = 64
_WIDE = re.compile(r"\d{5,}")
"""A field width of a format string."""


class TemplateRefusedError(Exception):
    """Raised by a template on purpose (`raise_exception`), or by a bound of its sandbox."""


class Sandbox(ImmutableSandboxedEnvironment):
    """See the module."""

    intercepted_binops: ClassVar[frozenset[str]] = frozenset({"*", "**", "%"})  # type: ignore[misc]

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Multiplication, power and old-style formatting, within bounds."""
        if operator == "**" and (abs(left) > MAX_MADE or abs(right) > MAX_POWER):
            raise TemplateRefusedError("a power is too large")
        if operator == "*":
            for made, count in ((left, right), (right, left)):
                if isinstance(made, str | list | tuple) and isinstance(count, int) and len(made) * count > MAX_MADE:
                    raise TemplateRefusedError("a repetition is too long")
        if operator == "%" and isinstance(left, str) and ("*" in left or _WIDE.search(left)):
            raise TemplateRefusedError("a format is too wide")
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805, PYI063 - as Jinja has it
        """Any call; numbers that would make very long strings are refused."""
        if any(isinstance(a, int) and abs(a) > MAX_MADE for a in (*args, *kwargs.values())):
            raise TemplateRefusedError("a call has too large a number")
        # the sandbox hands out str.format in a wrapper of its own
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
        if isinstance(owner, str) and __obj.__name__ in ("format", "format_map") and _WIDE.search(owner):
            raise TemplateRefusedError("a format is too wide")
        return super().call(__context, __obj, *args, **kwargs)


def environment() -> Sandbox:
    """With the helpers that chat templates in the wild rely on."""
    made = Sandbox(trim_blocks=True, lstrip_blocks=True, autoescape=False, extensions=[loopcontrols, _Generation])
    made.globals["raise_exception"] = _raise
    made.globals["strftime_now"] = _now
    made.filters["tojson"] = _tojson
    for name in ("center", "indent", "wordwrap", "truncate"):
        made.filters[name] = _bounded(made.filters[name])
    made.filters["format"] = _format
    return made


class _Generation(Extension):
    """`{% generation %}` marks what the assistant says, for training; here it is only what it contains."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja has it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The block's content."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _format(value: object, *args: Any, **kwargs: Any) -> str:
    """Jinja's filter, within the bounds of the operator `%`."""
    text = str(value)
    if "*" in text or _WIDE.search(text):
        raise TemplateRefusedError("a format is too wide")
    if args and kwargs:
        raise TypeError("format takes values by place or by name, not both")
    return text % (kwargs or args)


def _raise(message: object) -> NoReturn:
    raise TemplateRefusedError(str(message)[:500])


def _now(pattern: str) -> str:
    return dt.datetime.now().strftime(pattern)  # noqa: DTZ005 - templates mean the local date


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As the transformers library has it: not HTML-escaped, unlike Jinja's own filter."""
    if isinstance(indent, int | str) and (indent > MAX_INDENT if isinstance(indent, int) else len(indent) > MAX_INDENT):
        raise TemplateRefusedError("an indentation is too wide")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _bounded(filter_: Callable[..., Any]) -> Callable[..., Any]:
    def checked(*args: Any, **kwargs: Any) -> Any:
        if any(isinstance(a, int) and abs(a) > MAX_MADE for a in (*args, *kwargs.values())):
            raise TemplateRefusedError("a filter has too large a number")
        return filter_(*args, **kwargs)

    # Jinja's marks: some filters want the environment as their first argument
    if (mark := getattr(filter_, "jinja_pass_arg", None)) is not None:
        checked.jinja_pass_arg = mark  # type: ignore[attr-defined]
    return checked
