"""What failed, and what only ends: libraries written in Rust fail with panics, which pass every `except Exception`."""

import asyncio


def is_fault(error: BaseException) -> bool:
    """Whether `error` says that something failed; not so what ends a process, a task or a generator on purpose.

    Use it where nothing may fail unnoticed: `except BaseException as error: if not is_fault(error): raise`.
    """
    return not isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit | asyncio.CancelledError)
