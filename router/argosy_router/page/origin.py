"""Whether a browser's request comes from our own page. Pure.

Where no credential is asked for, a browser on the machine is one that any web page may have send requests here. Such a
page can neither send our content type without being asked whether it may, nor leave out `Origin`, nor choose `Host`
but to a name of its own: so that must be an address, or localhost.
"""

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

SAFE_SITES = frozenset({"same-origin", "none"})


def is_own(headers: Mapping[str, str]) -> bool:
    """Whether no other site's page can have sent this."""
    host = headers.get("host", "")
    origin = headers.get("origin")
    if headers.get("sec-fetch-site", "none") not in SAFE_SITES:
        return False
    if origin is not None and urlsplit(origin).netloc != host:
        return False
    return _is_address(host) and headers.get("content-type", "").partition(";")[0].strip() == "application/json"


def _is_address(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost":
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
