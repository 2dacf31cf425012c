"""`python -m argosy_operator`: settings from the environment, the cluster from the pod or from KUBECONFIG."""

import asyncio
import gc
import logging
import os
import sys

from argosy_api import logs
from argosy_api.errors import InvalidArgumentError
from argosy_api.process import EXIT_CONFIG
from argosy_kube import access as kube_access
from argosy_operator import app
from argosy_operator.settings import from_environment


def main() -> int:
    """Run until a signal comes; the exit status."""
    try:
        level = logs.configure(os.environ)
        settings = from_environment(os.environ)
        access = kube_access.find()
    except (InvalidArgumentError, OSError) as error:
        print(f"argosy-operator: {error}", file=sys.stderr)  # noqa: T201 - before there is a log
        return EXIT_CONFIG
    logging.getLogger("kopf").setLevel(max(level, logging.WARNING))
    where = ", ".join(settings.namespaces) or "all namespaces"
    logging.getLogger(__name__).info("operating on %s at %s", where, access.server)
    # a full collection looks at every object there is, if it is not told to pass over the modules' hundred thousand
    gc.collect()
    gc.freeze()
    try:
        asyncio.run(app.run(settings, access))
    except OSError as error:
        print(f"argosy-operator: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_CONFIG
    return 0


if __name__ == "__main__":
    sys.exit(main())
