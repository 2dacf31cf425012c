"""The page's files, read once, and the headers that keep a browser from anything else."""

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files

from aiohttp import web

KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
HEADERS = {
    # no inline code or style, nothing from or to another host, in no other page's frame
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}
INDEX, DOCS = "index.html", "docs.html"
FRAME = "frame.html"
"""The head and the navigation that all pages share, with places for what differs."""
_HEAD = re.compile(r"<!-- (\w+): (.*) -->\n")


@dataclass(frozen=True, slots=True)
class File:
    """One file as it is sent."""

    body: bytes
    kind: str
    tag: str

    def answer(self, request: web.Request) -> web.Response:
        """The file, or that the browser has it already."""
        headers = {**HEADERS, "etag": self.tag}
        if self.tag in request.headers.get("if-none-match", ""):
            return web.Response(status=304, headers=headers)
        return web.Response(body=self.body, headers={**headers, "content-type": self.kind})


def load() -> dict[str, File]:
    """All files by their names; pages with what is around each of them."""
    found = {}
    static = files("argosy_router.page").joinpath("static")
    frame = static.joinpath(FRAME).read_text(encoding="utf-8")
    for path in static.iterdir():
        kind = KINDS.get(path.name.rpartition(".")[2])
        if kind is not None and path.name != FRAME:
            body = path.read_bytes()
            if path.name.endswith(".html"):
                body = framed(frame, body.decode()).encode()
            found[path.name] = File(body, kind, f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"')
    return found


def framed(frame: str, page: str) -> str:
    """A page in its frame: its first lines fill the places of their names, the rest that of `main`."""
    places = {"main": _HEAD.sub("", page), **dict(_HEAD.findall(page))}
    return re.sub(r"\{(\w+)\}", lambda found: places[found[1]], frame)
