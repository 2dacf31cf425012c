"""The socket to one child process."""

import asyncio
import logging
from typing import Any, Protocol, cast

from argosy_api import limits
from argosy_router.children.frames import Unpacker

log = logging.getLogger(__name__)


class Listener(Protocol):
    """Who is told of what comes."""

    def answered(self, header: dict[str, Any], blobs: list[bytes]) -> None:
        """An answer came."""

    def died(self) -> None:
        """The process is gone, or talks nonsense."""


class Link(asyncio.Protocol):
    """The protocol of the socket. What an ended process still sends, or its end, must not reach the next one."""

    def __init__(self, child: "Listener") -> None:
        self._child: Listener | None = child
        self._frames = Unpacker(limit=limits.MAX_CHILD_FRAME)
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        self.transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        """Answers, or parts of them."""
        if self._child is None:
            return
        try:
            for header, blobs in self._frames.feed(data):
                if self._child is not None:
                    self._child.answered(header, blobs)
        except (ValueError, TypeError, RecursionError):
            log.exception("a child's answer cannot be read; its process is killed")
            if self._child is not None:
                self._child.died()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """The process is gone."""
        if self._child is not None:
            self._child.died()

    def send(self, frame: bytes) -> None:
        """Sends a frame."""
        if self.transport is not None:
            self.transport.write(frame)

    def cut(self) -> None:
        """Ends it; nothing is told any more."""
        self._child = None
        if self.transport is not None:
            self.transport.abort()
