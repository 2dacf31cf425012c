"""The header of a model that lies elsewhere, by HTTP range requests: a few hundred kilobytes of files of any size.

The server is a stranger. Whatever it answers, no more is read than was asked for, bytes and seconds are bounded, and
an access token goes to the host that it is for, and to no host that this one redirects to.
"""

import io
import os
import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import httpx

from argosy_api import limits, process
from argosy_api.errors import ModelDownloadError, ModelNotFoundError
from argosy_api.model_uri import ModelUri
from argosy_worker.fetch.cached import DEFAULT_REVISION
from argosy_worker.fetch.hub import DEFAULT_ENDPOINT

_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")
_TIMEOUT = httpx.Timeout(10.0)


class RangedFile(io.RawIOBase):
    """A remote file, read in parts of at most `limits.REMOTE_CHUNK` bytes. `size` is its size in bytes.

    Raises:
        ModelNotFoundError: no such file.
        ModelDownloadError: it cannot be reached, or the server does not serve ranges, lies about them, sends other
            bytes than were asked for, redirects in circles or to where no token may go in the clear.

    """

    def __init__(self, url: str, *, token: str = "", seconds: float = limits.REMOTE_HEADER_S) -> None:
        self._url, self._ends = url, time.monotonic() + seconds
        self.name = urlsplit(url).path.rpartition("/")[2] or urlsplit(url).netloc
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.Client(timeout=_TIMEOUT, follow_redirects=False)
        self._at = self.moved = self.size = 0
        try:
            self._first = self._fetch(0, limits.REMOTE_CHUNK)
        except BaseException:
            self._client.close()
            raise

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Where the next read begins."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def readinto(self, into: Any) -> int:
        """Fill a buffer, or a part of it."""
        begin, end = self._at, min(self._at + min(len(into), limits.REMOTE_CHUNK), self.size)
        if begin >= end:
            return 0
        known = self._first[begin:end]
        part = known or self._fetch(begin, end)
        into[: len(part)] = part
        self._at += len(part)
        return len(part)

    def close(self) -> None:
        """Close the connection."""
        if not self.closed:
            self._client.close()
        super().close()

    def _fetch(self, begin: int, end: int) -> bytes:
        """The bytes from `begin` to before `end`; the first fetch may be cut short by the end of the file."""
        if self.moved + end - begin > limits.MAX_REMOTE_HEADER:
            raise self._problem(f"its header is longer than {limits.MAX_REMOTE_HEADER} bytes")
        asked = {**self._headers, "Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
        try:
            for _ in range(limits.MAX_REMOTE_REDIRECTS + 1):
                self._check_time()
                with self._client.stream("GET", self._url, headers=asked) as answer:
                    if not answer.is_redirect:
                        return self._body(answer, begin, end)
                    self._redirect(answer.headers.get("Location", ""))
                    asked = {**self._headers, **{name: asked[name] for name in ("Range", "Accept-Encoding")}}
        except httpx.TimeoutException as error:
            raise self._problem("the server does not answer in time") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._problem(f"the server cannot be reached ({type(error).__name__})") from error
        raise self._problem(f"the server redirects more than {limits.MAX_REMOTE_REDIRECTS} times")

    def _redirect(self, location: str) -> None:
        before, url = urlsplit(self._url), urljoin(self._url, location)
        after = urlsplit(url)
        if after.scheme not in ("https", before.scheme) or after.scheme not in ("http", "https") or not after.netloc:
            raise self._problem(f"the server redirects to {after.scheme or 'nowhere'}, which is not followed")
        if after.netloc != before.netloc:
            self._headers = {}
        self._url = url

    def _body(self, answer: httpx.Response, begin: int, end: int) -> bytes:
        if answer.status_code == 404:
            raise ModelNotFoundError(f"{self.name!r}: the server has no such file")
        if answer.status_code == 200:
            raise self._problem("the server ignores Range and would send the whole file")
        if answer.status_code != 206:
            raise self._problem(f"the server answers HTTP {answer.status_code}")
        told = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if told is None:
            raise self._problem("the server sends a part and does not say which (Content-Range)")
        first, last, size = map(int, told.groups())
        wanted = min(end, size)
        if (first, last + 1) != (begin, wanted) or (self.size and size != self.size):
            raise self._problem(f"bytes {begin} to {wanted} were asked for; the server sends {told[0]!r}")
        body = bytearray()
        for part in answer.iter_raw(64 * 1024):
            self._check_time()
            body += part
            self.moved += len(part)
            if len(body) > wanted - begin:
                raise self._problem("the server sends more bytes than it says")
        if len(body) != wanted - begin:
            raise self._problem(f"the server says {wanted - begin} bytes and sends {len(body)}")
        self.size = size
        return bytes(body)

    def _check_time(self) -> None:
        if time.monotonic() > self._ends:
            raise self._problem(f"reading the header takes longer than {limits.REMOTE_HEADER_S:g} s")

    def _problem(self, text: str) -> ModelDownloadError:
        return ModelDownloadError(f"{self.name!r}: {text}")


def hub_url(source: ModelUri, environment: Mapping[str, str] = os.environ) -> str:
    """Where a hub has what tells a model's size: the GGUF file that is named, or the repository's `config.json`."""
    endpoint = (environment.get(process.HF_ENDPOINT) or DEFAULT_ENDPOINT).rstrip("/")
    revision = quote(source.revision or DEFAULT_REVISION, safe="")
    return f"{endpoint}/{source.place}/resolve/{revision}/{source.path or 'config.json'}"
