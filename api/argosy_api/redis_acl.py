"""Who may do what in Redis: one ACL user for the workers of a namespace, and one for the routers.

A namespace is the border between tenants, so its workers reach their own keys only. The rules are complete: with them
ACL SETUSER makes the same user, whatever was there before. They need Valkey, or Redis 7.2 or newer.
"""

import hashlib

from argosy_api.keys import TENANTS, Keys

ROUTER = "argosy-router"
"""The routers' user: it reads all, and writes what tenants have used."""
_CONNECTION = ("+ping", "+select", "+client|setname", "+client|setinfo")
_WORKER = ("+set", "+xadd", "+exists", "+del", "+multi", "+exec")
_ROUTER = ("+mget", "+xread", "+xrevrange", "+hset", "+hgetall", "+hdel", "+expire")


def worker_user(namespace: str) -> str:
    """Name of the user of a namespace's workers."""
    return f"argosy-worker-{namespace}"


def worker_rules(namespace: str, password: str) -> tuple[str, ...]:
    """What ACL SETUSER gets for `worker_user(namespace)`."""
    return _rules(password, (f"~{Keys.pattern(namespace)}",), _WORKER)


def router_rules(password: str) -> tuple[str, ...]:
    """What ACL SETUSER gets for `ROUTER`."""
    return _rules(password, (f"%R~{Keys.pattern()}", f"~{TENANTS}"), _ROUTER)


def _rules(password: str, keys: tuple[str, ...], commands: tuple[str, ...]) -> tuple[str, ...]:
    # the password as a hash: neither MONITOR nor an error message of the server can show it
    digest = hashlib.sha256(password.encode()).hexdigest()
    return ("reset", "on", f"#{digest}", *keys, "-@all", *_CONNECTION, *commands)
