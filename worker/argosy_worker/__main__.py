"""`python -m argosy_worker`: one model, one engine, one gRPC server."""

import json
import logging
import os
import sys
import threading

from argosy_worker.serve import app
from argosy_worker.serve.settings import SettingsError, parse


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def main() -> int:
    """Run a worker; returns the exit code: 0 told to stop, 78 nothing to serve until something changes, 1 a fault."""
    try:
        settings = parse(sys.argv[1:], os.environ)
    except SettingsError as error:
        print(f"argosy_worker: {error}", file=sys.stderr)  # noqa: T201 - logging is not set up yet
        return app.EXIT_CONFIG
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(_JsonLines() if settings.log_json else plain)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    code = app.run(settings)
    if any(thread.name == "engine" for thread in threading.enumerate()):
        # Still loading or in a step: compute libraries crash when the interpreter ends under them.
        logging.shutdown()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
