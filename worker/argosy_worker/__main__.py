"""`python -m argosy_worker`: one model, one engine, one gRPC server."""

import gc
import os
import sys


def main() -> int:
    """Run a worker; returns the exit code: 0 told to stop, 78 nothing to serve until something changes, 1 a fault."""
    # What modules are made of stays. The collector looked through it a hundred times while they were loaded, a sixth of
    # that time, and would do so in each full collection, between two steps.
    gc.disable()
    # None are meant for us; pydantic would read the lists of all packages that are installed to find that out.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from argosy_worker.serve.command import run  # noqa: PLC0415

    gc.freeze()
    gc.enable()
    return run()


if __name__ == "__main__":
    sys.exit(main())
