"""`python -m argosy_router.children.main MODULE FD`: the main function of a child process.

MODULE has a function `work(header, blobs) -> (header, blobs)`. Short jobs run in the main thread; long ones (`"lane":
"long"`) in a second thread at a lower priority, so that a prompt of a megabyte delays neither the short ones nor,
through the processor, the router. The child has a memory limit, dies with its parent, and is the kernel's first choice
when memory runs out.
"""

import contextlib
import ctypes
import importlib
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from argosy_api import limits
from argosy_router.children import RefusedError
from argosy_router.children.frames import Frame, Unpacker, pack

MIB = 1024 * 1024
START_BYTES = 1024 * MIB
"""Address space beyond that of the bare process, until the first job (which loads) is done."""
JOB_BYTES = 320 * MIB
"""Address space beyond that of the loaded process, for its jobs."""
READ_BYTES = 64 * 1024
LONG_NICE = 10
_PR_SET_PDEATHSIG = 1

Work = Callable[..., Frame]


def main() -> None:
    """Serves frames until the other side closes."""
    module, fd = sys.argv[1], int(sys.argv[2])
    _confine()
    work: Work = importlib.import_module(module).work
    link = socket.socket(fileno=fd)
    lock = threading.Lock()
    long = ThreadPoolExecutor(1, initializer=_yielding)
    frames = Unpacker(limit=limits.MAX_CHILD_FRAME)
    limited = False
    limit_memory(START_BYTES)

    def answer(frame: Frame) -> None:
        reply = pack(*_done(work, frame))
        with lock:
            link.sendall(reply)
        if frame[0].get("lane") == "long":
            _give_back()

    # one buffer for all: to make and free so large a one has the allocator tidy up and give pages back, each time
    buffer = memoryview(bytearray(READ_BYTES))
    while count := link.recv_into(buffer):
        for frame in frames.feed(buffer[:count]):
            if frame[0].get("lane") == "long":
                long.submit(answer, frame)
            else:
                answer(frame)
            if not limited:
                limit_memory(JOB_BYTES)
                limited = True
    os._exit(0)  # whatever still runs in the other thread: nobody waits for it


def _done(work: Work, frame: Frame) -> Frame:
    header, blobs = frame
    identity = {"id": header.get("id")}
    try:
        made, out = work(header, blobs)
    except RefusedError as error:
        return {**identity, "error": str(error), "kind": "refused"}, []
    except MemoryError:
        return {**identity, "error": "it takes more memory than it may", "kind": "refused"}, []
    except BaseException as error:  # noqa: BLE001 - a panic of a Rust library is no Exception
        return {**identity, "error": f"{type(error).__name__}: {str(error)[:300]}", "kind": "failed"}, []
    return {**identity, **made}, out


def _confine() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # a terminal's Ctrl-C is for the parent, which ends us
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_memory(more: int) -> None:
    """Let the address space grow by `more` bytes from here."""
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _give_back() -> None:
    """Memory of a long job, to the system: the allocator would keep it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def _yielding() -> None:
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LONG_NICE)


if __name__ == "__main__":
    main()
