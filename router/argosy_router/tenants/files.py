"""The files that say who may ask: read at the start, and again when they change, as those of a mounted Secret do."""

import asyncio
import logging
from pathlib import Path

from argosy_api import limits
from argosy_api.access import parse
from argosy_api.errors import InvalidArgumentError
from argosy_router.tenants import keys
from argosy_router.tenants.identity import Identity

log = logging.getLogger(__name__)

LOOK_S = 1.0
Seen = dict[str, tuple[int, int]]
"""Of each file: when it was changed, and its size."""


class AccessFiles:
    """Of one router. `load` once, then `watch`."""

    def __init__(self, identity: Identity, *, document: str | None, directory: str | None) -> None:
        self._identity = identity
        self._document = Path(document) if document else None
        self._directory = Path(directory) if directory else None
        self._text: str | None = None
        self._seen: Seen | None = None
        self._told: set[str] = set()

    async def load(self) -> None:
        """The first reading.

        Raises:
            InvalidArgumentError: there is no such document, or a field of it is wrong.

        """
        if self._document is not None:
            try:
                text = await asyncio.to_thread(_read, self._document, limits.MAX_ACCESS_BYTES)
            except (OSError, ValueError) as error:
                raise InvalidArgumentError("--access", f"cannot be read: {_why(error)}") from None
            self._follow(text)
        await self._read_keys()
        identity = self._identity
        if not identity.required:
            log.info("no credential is asked for: whoever reaches the router's ports may use every model")
        elif not len(identity.keys) and not identity.access.issuers:
            log.warning("there is no API key and no issuer of tokens: every request is refused")

    async def watch(self) -> None:
        """Follows the files. What can't be read, or is wrong, changes nothing."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self._document is not None:
                try:
                    self._follow(await asyncio.to_thread(_read, self._document, limits.MAX_ACCESS_BYTES))
                except (OSError, ValueError, InvalidArgumentError) as error:
                    self._tell(f"{self._document.name}: {_why(error)}; what was known before stays")
            await self._read_keys()

    def _follow(self, text: str) -> None:
        if text != self._text:
            self._identity.follow(parse(text))
            self._text = text

    async def _read_keys(self) -> None:
        if self._directory is None:
            return
        try:
            seen = await asyncio.to_thread(_look, self._directory)
            if seen == self._seen:
                return
            files = await asyncio.to_thread(_read_all, self._directory, list(seen))
        except OSError as error:
            self._tell(f"API keys: {_why(error)}; those known before stay")
            return
        self._seen = seen
        self._identity.keys, wrong = keys.read(files)
        log.info("%d API keys", len(self._identity.keys))
        for problem in wrong:
            self._tell(f"API key {problem}")

    def _tell(self, problem: str) -> None:
        if problem not in self._told:
            if len(self._told) >= 64:
                self._told.clear()
            self._told.add(problem)
            log.warning("%s", problem)


def _read(path: Path, most: int) -> str:
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"more than {most} bytes")
    return data.decode()


def _look(directory: Path) -> Seen:
    seen: Seen = {}
    for path in sorted(directory.iterdir()):
        if path.name.startswith(".") or not path.is_file() or len(seen) >= limits.MAX_KEYS:
            continue  # the kubelet keeps the versions of a Secret in hidden directories
        state = path.stat()
        seen[path.name] = (state.st_mtime_ns, state.st_size)
    return seen


def _read_all(directory: Path, names: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = _read(directory / name, limits.MAX_KEY_FILE_BYTES).strip()
        except (OSError, ValueError):  # gone in this moment, or no key
            found[name] = ""
    return found


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
