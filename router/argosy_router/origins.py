"""Origins of web pages, as a setting."""

import re

ANY = "*"


def parse_origins(text: str) -> tuple[str, ...]:
    """Origins with commas between them, as browsers write them: scheme://host, or with :port; or `*`.

    Raises:
        ValueError: naming one that is none.

    """
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    for origin in found:
        if origin != ANY and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s,*?#@]+", origin):
            raise ValueError(f"{origin!r} is no origin: write scheme://host, or scheme://host:port, or *")
    return found
