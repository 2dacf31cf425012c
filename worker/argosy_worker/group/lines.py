"""A connection between two processes of a group: JSON messages, one on a line, and beats that say that it lives.

Steps do not go this way (`ring`). What is for this one is rare: who is there, when to begin, and the end. A process
that was stopped or cut off keeps its connections; only that its beats are missing tells.
"""

import contextlib
import json
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

from argosy_api import limits

log = logging.getLogger(__name__)

Message = Mapping[str, Any]
BEAT_S = 0.5
LOST_S = 5.0
"""Without any word for so long the other side counts as lost."""
_BEAT = {"kind": "beat"}


class Line:
    """Two threads for one connection: one reads, one beats."""

    def __init__(
        self, connection: socket.socket, take: Callable[["Line", Message], None], lost: Callable[["Line", str], None]
    ) -> None:
        """`take` gets each message that is no beat. `lost` is told once why there will be no more, unless `close` was
        called before. Both are called by a thread of the line's own.
        """
        self._connection, self._take, self._lost = connection, take, lost
        self._writing = threading.Lock()
        self._closed = threading.Event()
        connection.settimeout(LOST_S)

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self._closed.is_set()

    def start(self) -> None:
        """Begin to read and to beat."""
        for work in (self._read, self._beat):
            threading.Thread(target=work, name="group", daemon=True).start()

    def send(self, message: Message) -> None:
        """Send a message. What cannot be sent is nobody's loss: the reading thread finds out why."""
        text = json.dumps(message).encode() + b"\n"
        with self._writing, contextlib.suppress(OSError):
            self._connection.sendall(text)

    def close(self) -> None:
        """End the connection, and say nothing."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_S):
            self.send(_BEAT)

    def _read(self) -> None:
        why = "it has closed the connection"
        try:
            with self._connection.makefile("rb") as file:
                while line := file.readline(limits.MAX_GROUP_MESSAGE):
                    message = json.loads(line)
                    if message["kind"] != _BEAT["kind"]:
                        self._take(self, message)
        except TimeoutError:
            why = f"it has not said anything for {LOST_S:g} s"
        except OSError as error:
            why = f"the connection failed: {error.strerror or error}"
        except (ValueError, KeyError, TypeError) as error:
            why = f"it said what cannot be understood: {type(error).__name__}"
        if not self._closed.is_set():
            self.close()
            self._lost(self, why)
