"""The side of a rank above 0: it finds rank 0, begins when told to, and notices when rank 0 is lost."""

import logging
import queue
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from argosy_api.pipeline import Place
from argosy_worker.group.backend import Backend
from argosy_worker.group.leader import Hello
from argosy_worker.group.lines import Line, Message

if TYPE_CHECKING:
    from argosy_worker.group.ring import Ring

log = logging.getLogger(__name__)

_AGAIN_S = 0.5
_CONNECT_S = 2.0


class Begin(NamedTuple):
    """What rank 0 says when all are there."""

    blocks: int
    """Of each rank's KV cache."""
    store: int
    """Port on which they find each other."""
    backend: Backend = Backend.GLOO
    """How rows go from rank to rank."""


class Member:
    """`ended` is called in any thread, with why (empty: rank 0 lets everybody go), after all have begun."""

    def __init__(self, host: str, port: int, *, own_host: str, ended: Callable[[str], object]) -> None:
        """Where rank 0 takes members in. `own_host`: address on which this process is reached by others."""
        self._leader, self._own_host, self._ended = (host, port), own_host, ended
        self._news: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._line: Line | None = None
        self._begun = False

    def wait(self, hello: Hello, progress: Callable[[str, float], None]) -> Begin:
        """Wait until rank 0 has all of its group, for as long as it takes."""
        said = ""
        while True:
            problem, begin = self._try(hello)
            if begin is not None:
                return Begin(int(begin["blocks"]), int(begin["store"]), Backend(begin["rows"]))
            if problem != said:
                log.info("no group yet: %s", said := problem)
            progress(f"waiting for rank 0 at {self._leader[0]}: {problem}", 1.0)
            time.sleep(_AGAIN_S)

    def ring(self, place: Place, begin: Begin, device: str) -> "Ring":
        """Join the others. Raises RunnerBrokenError when one of them is gone."""
        from argosy_worker.group.ring import Ring  # noqa: PLC0415  # torch

        store = Ring.store_of(self._leader[0], begin.store, place.ranks)
        return Ring.join(store, place, self._own_host, backend=begin.backend, device=device)

    def leave(self) -> None:
        """Ask rank 0 to drain and to let everybody go."""
        if self._line is not None:
            self._line.send({"kind": "leaving"})

    def _try(self, hello: Hello) -> tuple[str, Message | None]:
        try:
            connection = socket.create_connection(self._leader, timeout=_CONNECT_S)
        except OSError as error:
            return f"it cannot be reached ({error.strerror or error})", None
        line = self._line = Line(connection, self._take, self._lose)  # before it starts: what it says is taken
        line.start()
        line.send({"kind": "hello", "hello": hello.model_dump()})
        news = self._news.get()
        if news["kind"] == "begin":
            return "", news
        line.close()
        return str(news.get("why")), None

    def _take(self, line: Line, message: Message) -> None:
        if line is not self._line:
            return
        if message["kind"] == "begin":
            self._begun = True
        if message["kind"] == "end":
            self._ended("")
        else:
            self._news.put(message)

    def _lose(self, line: Line, why: str) -> None:
        if line is not self._line:
            return
        if self._begun:
            self._ended(f"rank 0 is lost: {why}")
        else:
            self._news.put({"kind": "lost", "why": why})
