"""Constraints into grammars, off the engine's thread and the event loop, each once."""

import asyncio
import contextlib
import os
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError, OverloadedError
from argosy_api.structured.constraint import parse
from argosy_worker.core.facts import ModelFacts
from argosy_worker.grammar.answer import AnswerGrammar
from argosy_worker.grammar.matchers import Habits

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

COMPILE_S = 30.0
"""Seconds that a request waits for its constraint. A router has tried it out before, within less."""
_NICE = 10


class Kept(NamedTuple):
    """A grammar, for all its answers."""

    matcher: "LLMatcher"
    """Before the first token."""
    habits: Habits
    """Of the thread that samples."""


class Grammars:
    """Lives on the event loop. One thread compiles, at a lower priority than the engine's."""

    def __init__(self, facts: ModelFacts) -> None:
        self._facts = facts
        self._tokens: LLTokenizer | None = None
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._under_way: dict[str, asyncio.Future[Kept]] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="grammars", initializer=_yielding)

    async def of(self, text: str) -> AnswerGrammar | None:
        """The grammar of a constraint, for one answer; None where there is none.

        Raises:
            InvalidArgumentError: the constraint, or the library's reason against it.
            OverloadedError: too many others wait.

        """
        if not text:
            return None
        made = self._kept.get(text)
        if made is None:
            made = await self._compiled(text)
        else:
            self._kept.move_to_end(text)
        return AnswerGrammar(made.matcher, lambda: self._compile(text), self._facts.eos_token_ids, made.habits)

    async def _compiled(self, text: str) -> Kept:
        future = self._under_way.get(text)
        if future is None:
            if len(self._under_way) >= limits.MAX_COMPILING:
                raise OverloadedError("too many constraints wait to be compiled")
            future = asyncio.get_running_loop().run_in_executor(self._pool, self._kept_of, text)
            self._under_way[text] = future
            future.add_done_callback(lambda done: self._keep(text, done))
        try:
            async with asyncio.timeout(COMPILE_S):
                return await asyncio.shield(future)
        except TimeoutError:
            raise InvalidArgumentError("constraint", f"takes more than {COMPILE_S:g} s to compile") from None

    def _keep(self, text: str, done: asyncio.Future[Kept]) -> None:
        del self._under_way[text]
        if done.cancelled() or done.exception() is not None:
            return
        self._kept[text] = done.result()
        while len(self._kept) > limits.MAX_GRAMMARS:
            self._kept.popitem(last=False)

    def _vocabulary(self) -> "LLTokenizer":
        from argosy_api.structured import compile as library  # noqa: PLC0415  # 12 MB that most workers never need

        if self._tokens is None:
            facts = self._facts
            self._tokens = library.vocabulary(facts.tokenizer_json, facts.vocab_size, facts.eos_token_ids)
        return self._tokens

    def _kept_of(self, text: str) -> Kept:
        return Kept(self._compile(text), Habits())

    def _compile(self, text: str) -> "LLMatcher":
        from argosy_api.structured import compile as library  # noqa: PLC0415

        constraint = parse(text)
        return library.matcher(self._vocabulary(), constraint)

    def close(self) -> None:
        """Compile nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _yielding() -> None:
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
