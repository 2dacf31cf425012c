"""Chat messages to prompt text, by the model's own Jinja template in an immutable sandbox.

The template comes from the model's files and the messages from anyone, so: no attribute tricks (the sandbox), a limit
on the template, on what it writes and on its time. A render runs in a worker thread; one that is over its time is
stopped by an exception raised inside that thread, because a thread cannot be killed.
"""

import ctypes
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType

import jinja2

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError
from argosy_router.text.chat_sandbox import TemplateRefusedError, environment

RENDER_S = 2.0

Message = dict[str, str]


class _OverTimeError(BaseException):
    """Raised into a rendering thread; not an Exception, so that nothing between swallows it."""


class ChatRenderer:
    """One model's chat template.

    `template` is Jinja source; an empty one is a model without chat. Raises nothing until it is used: a broken
    template must not keep the model from serving completions.
    """

    def __init__(self, template: str, special_tokens: Mapping[str, str], *, limit_s: float = RENDER_S) -> None:
        self._tokens = dict(special_tokens)
        self._limit_s = limit_s
        self._problem = ""
        self._template: jinja2.Template | None = None
        if not template:
            self._problem = "the model has no chat template; use /v1/completions"
        elif len(template.encode("utf-8", "surrogatepass")) > limits.MAX_CHAT_TEMPLATE_BYTES:
            self._problem = f"the model's chat template has more than {limits.MAX_CHAT_TEMPLATE_BYTES} bytes"
        else:
            try:
                self._template = environment().from_string(template)
            except (jinja2.TemplateError, RecursionError) as error:
                self._problem = f"the model's chat template is broken: {error}"

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt, with the header of the assistant's turn at its end. Blocks up to the time limit.

        Raises:
            InvalidArgumentError: field `messages`: no template, the template refuses them, or takes too much.

        """
        if self._template is None:
            raise InvalidArgumentError("messages", self._problem)
        watch = _Watch(self._limit_s)
        try:
            with watch:
                return self._run(self._template, messages)
        except InvalidArgumentError:
            raise
        except _OverTimeError:
            raise InvalidArgumentError("messages", f"the chat template took more than {self._limit_s:g} s") from None
        except TemplateRefusedError as error:
            raise InvalidArgumentError("messages", f"refused by the model's chat template: {error}") from None
        except (jinja2.TemplateError, RecursionError, MemoryError, ArithmeticError, LookupError, TypeError, ValueError,
                AttributeError) as error:  # fmt: skip
            problem = f"the model's chat template failed: {type(error).__name__}: {str(error)[:200]}"
            raise InvalidArgumentError("messages", problem) from None

    def _run(self, template: jinja2.Template, messages: Sequence[Message]) -> str:
        parts: list[str] = []
        size = 0
        context = {
            **self._tokens,
            "messages": messages,
            "add_generation_prompt": True,
            "tools": None,
            "documents": None,
        }
        for part in template.generate(**context):
            size += len(part)
            if size > limits.MAX_RENDERED_CHAT_BYTES:
                raise InvalidArgumentError(
                    "messages", f"the chat template wrote more than {limits.MAX_RENDERED_CHAT_BYTES} characters"
                )
            parts.append(part)
        return "".join(parts)


class _Watch:
    """Raises `_OverTimeError` in the thread that entered it, once `limit_s` is over."""

    def __init__(self, limit_s: float) -> None:
        self._lock = threading.Lock()
        self._running = False
        self._fired = False
        self._timer = threading.Timer(limit_s, self._expire)
        self._timer.daemon = True
        self._thread = 0

    def __enter__(self) -> None:
        self._thread = threading.get_ident()
        self._running = True
        self._timer.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        with self._lock:  # from here on the timer cannot raise into this thread any more
            self._running = False
        if self._fired and kind is not _OverTimeError:
            for _round in range(
                10_000
            ):  # it is pending: let it be raised here, where it is caught, not somewhere later
                pass

    def _expire(self) -> None:
        with self._lock:
            if self._running:
                self._fired = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread), ctypes.py_object(_OverTimeError)
                )
