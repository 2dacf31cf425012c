"""Where the router learns who is there: a source of whole `Membership` views, each replacing the one before.

A source is an async iterator; it never ends by itself and never raises for a passing fault (it logs, keeps the last
good view by yielding nothing, and tries again). The file source serves embedded mode; the Kubernetes source, in
`membership_kubernetes`, has the same shape.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError
from argosy_api.membership import Membership

log = logging.getLogger(__name__)

POLL_S = 0.1


class MembershipSource(Protocol):
    """Whole views of who is there."""

    @property
    def problem(self) -> str:
        """Why the last view may be old; empty while all is well."""
        ...

    def views(self) -> AsyncIterator[Membership]:
        """The present view as soon as it is known, then one for each change."""
        ...


class FileSource:
    """One JSON document, replaced atomically by whoever supervises the workers; looked at every `poll_s` seconds."""

    def __init__(self, path: Path, *, poll_s: float = POLL_S) -> None:
        self._path = path
        self._poll_s = poll_s
        self._problem = ""

    @property
    def problem(self) -> str:
        """Why the file can't be read."""
        return self._problem

    async def views(self) -> AsyncIterator[Membership]:
        """Yields when the file's content changed; a missing or broken file keeps the last view."""
        seen: tuple[int, ...] | None = None
        last: Membership | None = None
        while True:
            try:
                stat = os.stat(self._path)  # noqa: PTH116 - a local stat takes microseconds
                mark = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
                if mark != seen:
                    if stat.st_size > limits.MAX_MEMBERSHIP_BYTES:
                        most = limits.MAX_MEMBERSHIP_BYTES
                        raise ValueError(f"has {stat.st_size} bytes; at most {most} are read")  # noqa: TRY301
                    text = self._path.read_text(encoding="utf-8")
                    view = Membership.from_json(text)
                    seen = mark
                    if view != last:
                        last = view
                        yield view
                self._problem = ""
            except (OSError, ValueError) as error:
                if str(error) != self._problem:  # once for each fault, not ten times a second
                    self._problem = str(error)
                    log.warning("membership file: %s; keeping the last view", error)
            await asyncio.sleep(self._poll_s)


def source(setting: str) -> MembershipSource:
    """The source that `--membership` names.

    Raises:
        InvalidArgumentError: no such source, or no cluster to be found.

    """
    scheme, _, rest = setting.partition(":")
    if scheme == "file" and rest:
        return FileSource(Path(rest))
    if setting == "kubernetes":
        from argosy_router.fleet import membership_kubernetes  # noqa: PLC0415 - embedded mode has no cluster to talk to

        return membership_kubernetes.source()
    raise InvalidArgumentError("--membership", f"is {setting!r}; must be file:PATH or kubernetes")
