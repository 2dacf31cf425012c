"""What a URL of Redis says beyond host and login: the Sentinels that know where the master is (`sentinel.py`)."""

from urllib.parse import parse_qsl, urlsplit

PORT = 26379
"""Of a Sentinel."""


def parse(text: str) -> tuple[tuple[str, int], ...]:
    """`host:port` of each Sentinel, with commas between them.

    Raises:
        ValueError: there is none, or one of another form.

    """
    found = []
    for item in text.split(","):
        parts = urlsplit(f"//{item.strip()}")
        if not parts.hostname or parts.path or parts.username or parts.port == 0:
            raise ValueError("sentinels: must be HOST:PORT, with commas between them")
        found.append((parts.hostname, parts.port or PORT))
    return tuple(found)


def sentinels_of(url: str) -> tuple[tuple[str, int], ...]:
    """The Sentinels of a URL; none: its host is a host. Raises as `parse`."""
    query = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
    return parse(query["sentinels"]) if "sentinels" in query else ()
