"""`python -m argosy_router`: the router as a process."""

import asyncio
import os
import sys

import uvloop

from argosy_api import logs
from argosy_api.errors import InvalidArgumentError
from argosy_api.process import EXIT_CONFIG
from argosy_router import app, settings
from argosy_router.fleet import membership
from argosy_router.fronts.grpc_common import PortTakenError


def main() -> int:
    """Runs until a signal; returns the exit code."""
    try:
        chosen = settings.parse()
        logs.configure(os.environ)
        source = membership.source(chosen.membership)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(app.serve(chosen, source))
    except (PortTakenError, InvalidArgumentError) as error:
        print(f"argosy-router: {error}", file=sys.stderr)  # noqa: T201 - a person reads it
        return EXIT_CONFIG
    return 0


if __name__ == "__main__":
    sys.exit(main())
