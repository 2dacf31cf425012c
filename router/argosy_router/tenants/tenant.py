"""Whose a request is."""

import hashlib
from dataclasses import dataclass

from argosy_api import limits
from argosy_api.access import TenantLimits


@dataclass(frozen=True, slots=True)
class Tenant:
    """One of those who share the routers. Nobody sees what another one's requests left in caches."""

    name: str
    """Empty: no credential is asked for, and all are one."""
    limits: TenantLimits
    admin: bool = False
    """May be told why a worker was chosen: that tells of others' requests, too."""

    def priority(self, asked: int) -> int:
        """What a request gets that asks for this priority."""
        return min(asked, self.limits.max_priority)

    def salt(self, asked: str) -> str:
        """The salt of block ids: equal only for one tenant, whatever salt he asks for."""
        if not self.name:
            return asked
        return hashlib.blake2b(asked.encode(), key=_key(self.name), person=b"argosy-tenant", digest_size=16).hexdigest()


def _key(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=32).digest()


ANYBODY = Tenant("", TenantLimits(max_priority=limits.MAX_PRIORITY))
"""Who asks where no credential is asked for."""
