"""Processes that share a folder do a thing one after another, also on different machines.

By a lock that the kernel (or the server of a network file system) lets go when its holder ends, however it ends. Where
a file system has no locks, all go ahead: what they do there must be right without, and is only done more than once.
"""

import contextlib
import fcntl
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

log = logging.getLogger(__name__)

LOOK_S = 0.5
"""How often one who waits looks again."""


@contextlib.contextmanager
def turn(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock on a file, which is made where it is not; `waiting` is called at each look at a taken one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        while not _take(file.fileno(), path):
            waiting()
            time.sleep(LOOK_S)
        yield


def _take(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        log.warning("%s cannot be locked (%s): others may download the same", path, error.strerror)
    return True
