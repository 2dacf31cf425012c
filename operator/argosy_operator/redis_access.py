"""What workers may know of Redis: never the operator's own credential, which opens all of it.

The workers of a namespace log in as an ACL user of that namespace (`argosy_api.redis_acl`). Its password is derived
from the operator's, so no state is kept: any operator with the same URL derives the same, and makes the user again
after a restart of Redis.
"""

import functools
import hashlib
import hmac
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from argosy_api import redis_acl
from argosy_api.errors import InvalidArgumentError
from argosy_api.redis_urls import sentinels_of

Access = Literal["perNamespace", "shared"]
"""`shared`: whoever installed it wants everybody to use one URL as it is."""


def check_url(url: str, variable: str) -> str:
    """Return the URL of a Redis, or nothing.

    Raises:
        InvalidArgumentError: naming the variable, and never what it holds.

    """
    if not url:
        return ""
    try:
        parts = urlsplit(url)
        port_is_right, query = parts.port != 0, {name for name, _ in parse_qsl(parts.query)}
    except ValueError:
        raise InvalidArgumentError(variable, "is no URL") from None
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or not port_is_right:
        raise InvalidArgumentError(
            variable, "must be redis:// or rediss://, with user and password as needed, and a host"
        )
    try:
        sentinels_of(url)
    except ValueError:
        raise InvalidArgumentError(variable, "has sentinels that are not HOST:PORT, with commas between them") from None
    if query & {"username", "password"}:
        raise InvalidArgumentError(variable, "must have user and password in front of the host, not behind a '?'")
    return url


def password_of(url: str) -> str:
    """The password in a URL; empty: there is none."""
    return unquote(urlsplit(url).password or "")


def user_of(url: str) -> str:
    """The user in a URL; empty: there is none."""
    return unquote(urlsplit(url).username or "")


def worker_url(admin_url: str, access: Access, namespace: str) -> str:
    """Return what workers of a namespace log in with; empty: they use no Redis.

    A Redis without a password is everybody's: there is nothing to derive from, and a user of one's own would keep
    nobody out. Workers then stay away from it, and routers ask the workers.
    """
    if not admin_url or access == "shared":
        return admin_url
    password = password_of(admin_url)
    if not password:
        return ""
    parts = urlsplit(admin_url)
    user, derived = redis_acl.worker_user(namespace), worker_password(password, namespace)
    return SplitResult(parts.scheme, f"{quote(user)}:{derived}@{_host(parts)}", parts.path, parts.query, "").geturl()


def worker_password(admin_password: str, namespace: str) -> str:
    """Return the password of a namespace's user: 64 hexadecimal digits."""
    message = f"argosy/redis/{redis_acl.worker_user(namespace)}"
    return hmac.new(_key(admin_password), message.encode(), hashlib.sha256).hexdigest()


def without_secrets(url: str) -> str:
    """Return host and port, for a log."""
    return _host(urlsplit(url))


def _host(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]


@functools.lru_cache(maxsize=4)
def _key(admin_password: str) -> bytes:
    # slow by intent (some 50 ms, once): whoever holds a derived password could try admin passwords against it
    return hashlib.scrypt(admin_password.encode(), salt=b"argosy redis users", n=1 << 14, r=8, p=1, dklen=32)
