"""Starts a child process."""

import os
import subprocess
import sys

_INHERITED = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")
"""All that a child sees of the environment: no credential is among it."""


def spawn(module: str, fd: int) -> "subprocess.Popen[bytes]":
    """A process that does the work of `module` and talks through the socket `fd`.

    Not through asyncio: uvloop forks, and gRPC's fork handlers then start threads in the fork, which may crash it
    before it becomes our child. `subprocess` uses vfork, which runs no handlers. It returns when the child runs.
    """
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    environment["TOKENIZERS_PARALLELISM"] = "false"  # a long prompt stays in the one thread that yields
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-P", "-m", "argosy_router.children.main", module, str(fd)],
        pass_fds=[fd], env=environment, stdin=subprocess.DEVNULL,
    )  # fmt: skip
