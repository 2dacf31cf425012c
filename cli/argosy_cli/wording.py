"""Help in the words of a terminal: what stands for a value is no name of a type of Python's."""

import re
from collections.abc import Callable
from typing import Any

from typer.core import TyperArgument, TyperGroup

_WORDS = {"str": "TEXT", "path": "PATH", "file": "PATH", "dir": "PATH", "int": "N", "float": "X"}
_TYPE = re.compile(r"<(?:list\[)?(\w+)[^<>]*>")


class Group(TyperGroup):
    """The program. Parameters of its commands that have no word of their own get one by their type, and flags none."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for command in (self, *self.commands.values()):
            _word_all(command)


def in_words(told: str) -> str:
    """A type as typer tells it (`<int range>`, `<list[Path]>`), in a word; nothing for flags. Choices stay."""
    return _TYPE.sub(lambda found: _WORDS.get(found[1].lower(), ""), told)


def _word_all(command: Any) -> None:
    made = command.get_params  # some are made when they are asked for

    def worded(ctx: Any) -> list[Any]:
        found: list[Any] = made(ctx)
        for parameter in found:
            _worded(parameter)
        return found

    command.get_params = worded


def _worded(parameter: Any) -> None:
    if getattr(parameter, "worded", False):
        return
    parameter.worded = True
    told: Callable[[Any], str] | None = getattr(parameter, "display_type", None)
    if told is not None:  # typer before 0.20 has no such method, and says TEXT itself
        of_argument = isinstance(parameter, TyperArgument)
        parameter.display_type = lambda ctx: "" if of_argument else in_words(told(ctx))
    if isinstance(parameter, TyperArgument):
        parameter.metavar = parameter.metavar or str(parameter.name).upper()
        parameter.get_usage_pieces = lambda ctx: [usage(parameter)]  # type: ignore[method-assign]  # noqa: ARG005


def usage(argument: Any) -> str:
    """An argument in the line of usage: `FILE...`, `[NAME]`."""
    name = str(argument.metavar).strip("[]").removesuffix("...")
    shown = name if argument.required else f"[{name}]"
    return shown if argument.nargs == 1 else f"{shown}..."
