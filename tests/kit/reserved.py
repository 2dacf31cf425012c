"""Free ports for servers of tests: what one test process has been given no other one gets while it lives."""

import fcntl
import os
import tempfile
from pathlib import Path

from argosy_cli.embedded import ports  # below the range of outgoing connections: none lands on a chosen port

_held = []
"""Open files: each one's lock is a port of ours, until this process ends, however it ends."""


def free_port():
    """A loopback port that nobody listens on. Between its choice and its use no other test can take it."""
    folder = Path(tempfile.gettempdir()) / f"argosy-test-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    while True:
        port = ports.free_port()
        file = (folder / str(port)).open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        if ports.is_free("127.0.0.1", port):
            _held.append(file)
            return port
        file.close()
