"""Rank 0's side of a group: it takes the others in, has all begin at once, and notices when one is lost."""

import hashlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from argosy_api import limits, net
from argosy_api.pipeline import Place
from argosy_worker.core.facts import EXACT, ModelFacts
from argosy_worker.group.backend import Backend, Offer
from argosy_worker.group.lines import Line, Message

if TYPE_CHECKING:
    from argosy_worker.group.ring import Ring

log = logging.getLogger(__name__)


class Hello(BaseModel):
    """What a member says first: who it is, and what it has loaded."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", defer_build=True)

    rank: int
    ranks: int
    spec: str
    """The JSON text of what it was told to serve: that of all must be the same."""
    blocks: int
    """Blocks that its KV cache has room for."""
    fingerprint: str
    exactness: str
    weights_bytes: int
    offer: Offer = Offer()
    """What it computes on."""


@dataclass(slots=True)
class _Members:
    lines: dict[int, Line] = field(default_factory=dict)
    hellos: dict[int, Hello] = field(default_factory=dict)
    begun: bool = False
    ended: bool = False


class Leader:
    """Made before the model is loaded, so that a taken port is found out at once. `lost` and `leaving` are called once
    at most, in any thread: a member is lost after all have begun, or wants to leave.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        ranks: int,
        parts: int = 1,
        spec: str,
        lost: Callable[[str], object],
        leaving: Callable[[], object],
    ) -> None:
        """Listen. `parts`: of the `ranks` share each layer. Raises OSError."""
        self._place = Place(0, ranks // parts, parts)
        self._host, self._ranks, self._spec, self._tell_lost, self._tell_leaving = host, ranks, spec, lost, leaving
        self._members = _Members()
        self._changed = threading.Condition()
        self._open: list[Line] = []
        self._server = net.listen(host, port)
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, name="group", daemon=True).start()

    def wait(self, progress: Callable[[str, float], None]) -> list[Hello]:
        """Until all are there, for as long as it takes; what they said, by rank."""
        with self._changed:
            while missing := [rank for rank in range(1, self._ranks) if rank not in self._members.hellos]:
                names = ", ".join(map(str, missing))
                progress(f"waiting for rank {names} of the group of {self._ranks}", 1.0)
                self._changed.wait()
            return [hello for _, hello in sorted(self._members.hellos.items())]

    def begin(self, blocks: int, backend: Backend = Backend.GLOO, device: str = "cpu") -> "Ring":
        """Have all begin with so many blocks, and join them in a ring. From now on none may be lost.

        `backend`: how rows go from rank to rank. `device`: where those of rank 0 are.
        """
        from argosy_worker.group.ring import Ring  # noqa: PLC0415  # torch

        with self._changed:
            self._members.begun = True
            lines = list(self._members.lines.values())
            missing = len(lines) < self._ranks - 1
        if missing:
            self._tell_lost("one has gone while the group was to begin")
        store, port = Ring.store(self._host)
        for line in lines:
            line.send({"kind": "begin", "blocks": blocks, "store": port, "rows": backend.value})
        return Ring.join(store, self._place, self._host, backend=backend, device=device)

    def end(self) -> None:
        """Let all go: they end without a fault."""
        with self._changed:
            self._members.ended = True
            lines = list(self._members.lines.values())
        for line in lines:
            line.send({"kind": "end"})

    # --- threads of the connections

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self._open = [line for line in self._open if not line.closed]
            if len(self._open) >= limits.MAX_GROUP_CONNECTIONS:
                connection.close()
                continue
            line = Line(connection, self._take, self._lose)
            self._open.append(line)
            line.start()

    def _take(self, line: Line, message: Message) -> None:
        if message["kind"] == "leaving":
            self._tell_leaving()
        if message["kind"] != "hello":
            return
        try:
            hello = Hello.model_validate(message["hello"])
        except ValidationError:
            line.send({"kind": "refused", "why": "its first message is not sound"})
            return
        with self._changed:
            refusal = self._refusal(hello)
            if not refusal:
                former = self._members.lines.get(hello.rank)
                if former is not None:
                    former.close()
                self._members.lines[hello.rank], self._members.hellos[hello.rank] = line, hello
                self._changed.notify_all()
        if refusal:
            line.send({"kind": "refused", "why": refusal})

    def _refusal(self, hello: Hello) -> str:
        if self._members.begun:
            return "the group has begun with another process of this rank; it will end, and begin anew"
        if hello.ranks != self._ranks or not 0 < hello.rank < self._ranks:
            return f"rank {hello.rank} of {hello.ranks} is none of the {self._ranks} of this group"
        if hello.spec != self._spec:
            return "it was told to serve something else than rank 0"
        return ""

    def _lose(self, line: Line, why: str) -> None:
        with self._changed:
            rank = next((rank for rank, known in self._members.lines.items() if known is line), None)
            if rank is None:
                return
            del self._members.lines[rank], self._members.hellos[rank]
            told = self._members.begun and not self._members.ended
            self._changed.notify_all()
        log.warning("rank %d is lost: %s", rank, why)
        if told:
            self._tell_lost(f"rank {rank} is lost: {why}")


def joint(facts: ModelFacts, members: list[Hello]) -> ModelFacts:
    """The facts of all ranks together: of equal fingerprint are only groups that compute the same bits."""
    digest = hashlib.sha256()
    for part in (facts.fingerprint, *(hello.fingerprint for hello in members)):
        digest.update(len(part).to_bytes(8, "little") + part.encode())
    return replace(
        facts,
        fingerprint=digest.hexdigest()[:32],
        exactness=next((e for e in (facts.exactness, *(h.exactness for h in members)) if e != EXACT), EXACT),
        weights_bytes=max(facts.weights_bytes, *(hello.weights_bytes for hello in members)),
    )
