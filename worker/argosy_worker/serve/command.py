"""What `python -m argosy_worker` does once its modules are there: settings, the process, the exit code."""

import logging
import os
import sys
import threading

from argosy_api import logs
from argosy_api.errors import InvalidArgumentError
from argosy_api.process import EXIT_CONFIG, EXIT_FAULT, Termination
from argosy_api.tracing import tracing
from argosy_worker.serve import app, hosting
from argosy_worker.serve.pod import end_with_parent
from argosy_worker.serve.settings import parse


def run() -> int:
    """Run a worker; returns the exit code: 0 told to stop, 78 nothing to serve until something changes, 1 a fault."""
    # OpenMP reads this when torch is loaded: a waiting thread of it would spin, and where another process has the other
    # core every parallel operation takes 4 to 8 ms instead of 0.1.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        logs.configure(os.environ)
        settings = parse(sys.argv[1:], os.environ)
        traced = tracing("argosy-worker", os.environ, **{"service.instance.id": settings.worker_id})
    except InvalidArgumentError as error:
        hosting.refuse(Termination(error.reason, error.message), os.environ)
        return EXIT_CONFIG
    if settings.parent and not end_with_parent(settings.parent):
        return EXIT_FAULT
    code = app.run(settings, traced)
    if any(thread.name in ("engine", "group") for thread in threading.enumerate()):
        # Still loading or in a step: compute libraries crash when the interpreter ends under them. And what joins the
        # processes of a group waits for them when it is taken down.
        logging.shutdown()
        os._exit(code)
    return code
