"""The log of a process, set up in one place for all parts: its level, and lines for people or for programs."""

import json
import logging
import sys
from collections.abc import Mapping

from argosy_api.errors import InvalidArgumentError

LEVEL = "ARGOSY_LOG_LEVEL"
"""DEBUG, INFO (default), WARNING or ERROR."""
FORMAT = "ARGOSY_LOG_FORMAT"
"""plain (default), or json: one object for each line."""

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_PLAIN = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class JsonLines(logging.Formatter):
    """Each record as one JSON object: time, level, logger, message, and exception where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure(environment: Mapping[str, str]) -> int:
    """Write the root logger's records to stderr as the environment says; the level.

    Raises:
        InvalidArgumentError: naming the variable.

    """
    level = (environment.get(LEVEL) or "INFO").upper()
    if level not in _LEVELS:
        raise InvalidArgumentError(LEVEL, f"is {level[:20]!r}; must be {', '.join(_LEVELS)}")
    kind = (environment.get(FORMAT) or "plain").lower()
    if kind not in ("plain", "json"):
        raise InvalidArgumentError(FORMAT, f"is {kind[:20]!r}; must be plain or json")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if kind == "json" else logging.Formatter(_PLAIN))
    # Where in the code, by which thread and process: found out for each line, a quarter of its cost, and told in none.
    # The library's documentation says to switch it off so.
    logging._srcfile = None  # noqa: SLF001
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(level=level, handlers=[handler])
    return logging.getLogger().level
