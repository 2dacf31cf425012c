"""Become another program that ends when the supervisor does, even if that was killed with SIGKILL.

Started as `python -I -S launch.py <parent's pid> <program> <argument>...`. The kernel's parent-death signal must be
asked for by the child itself, after the fork and before the exec. `preexec_fn` would run Python code in a forked copy
of a process that has gRPC's threads, which can deadlock; this file runs in a fresh process instead and costs about
20 ms. It imports nothing but the standard library, so that it starts that fast.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
EXIT_ORPHAN = 75


def main() -> None:
    """Ask for the signal, then exec."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above took effect
        sys.exit(EXIT_ORPHAN)
    os.execvp(command[0], command)  # noqa: S606 - no shell is what is wanted


if __name__ == "__main__":
    main()
