"""One file over HTTP into a cache: it goes on where a former try or a former process ended, and is there only whole.

Bytes are written at their own offsets of `NAME.partial`, which is renamed once its checksum is right. So two who write
at once, where a network file system honours no lock, write the same bytes in the same places.
"""

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from argosy_api.errors import ModelDownloadError

TIMEOUT = httpx.Timeout(30.0)
"""For a connection, and between two parts of a body: a server that says nothing for so long is left."""
PARTIAL = ".partial"
_CHUNK = 1 << 20
_RANGE = re.compile(r"bytes ([0-9]{1,19})-[0-9]{1,19}/[0-9]{1,19}")


class DamagedError(ModelDownloadError):
    """What came is not what was asked for; it was thrown away, and another try begins anew."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A file on a server, as a hub describes it."""

    url: str
    size: int
    """In bytes; 0: not known."""
    digest: str
    """SHA-256, or the SHA-1 that git gives a blob, in hexadecimal; empty: not known."""


def get(client: httpx.Client, remote: Remote, target: Path, progress: Callable[[int], None]) -> None:
    """Make `target` from what the server has, beginning with what `target.partial` has of it.

    `progress` is called with the bytes that are there.

    Raises:
        DamagedError: the bytes are other ones than the hub says.
        httpx.HTTPError: the server refuses, cannot be reached, or the connection broke off; what came is kept.
        OSError: it cannot be stored.

    """
    partial = target.with_name(target.name + PARTIAL)
    try:
        partial.touch()
        if not remote.size or partial.stat().st_size != remote.size:
            _receive(client, remote, partial, progress)
        _finish(remote, partial, target)
    except FileNotFoundError:  # another one, whom no lock kept out, was faster
        if not target.exists():
            raise DamagedError(f"{remote.url}: what came of it was removed meanwhile") from None


def _receive(client: httpx.Client, remote: Remote, partial: Path, progress: Callable[[int], None]) -> None:
    size, begin = remote.size, partial.stat().st_size
    if size and begin > size:
        begin = 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={begin}-"} if begin else {})
    with client.stream("GET", remote.url, headers=headers) as answer, partial.open("r+b") as file:
        if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            partial.unlink()
            raise DamagedError(f"{remote.url}: the server has no bytes after those that are here")
        answer.raise_for_status()
        told = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        at = int(told[1]) if answer.status_code == httpx.codes.PARTIAL_CONTENT and told else 0
        if at not in (0, begin):
            raise DamagedError(f"{remote.url}: bytes from {begin} on were asked for, and come from {at} on")
        file.seek(at)
        for part in answer.iter_raw():  # as they come: what is gathered into larger ones is lost with the connection
            at += len(part)
            if size and at > size:
                raise DamagedError(f"{remote.url}: the server sends more than the {size} bytes that it says")
            file.write(part)
            file.flush()
            progress(at)
        if size and at != size:
            raise DamagedError(f"{remote.url}: the server says {size} bytes and sends {at}")
        file.truncate(at)


def _finish(remote: Remote, partial: Path, target: Path) -> None:
    if remote.digest and (found := digest_of(partial, remote.digest)) != remote.digest:
        partial.unlink()
        raise DamagedError(f"{remote.url}: was damaged on its way: its checksum is {found}, not {remote.digest}")
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(target)


def digest_of(path: Path, like: str) -> str:
    """The digest of a file, of the kind that `like` is: 40 digits for git's of a blob, else SHA-256."""
    if len(like) == 40:
        blob = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    else:
        blob = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_CHUNK):
            blob.update(part)
    return blob.hexdigest()
