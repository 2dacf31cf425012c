"""Who asks: from the `authorization` of a request to its tenant. Everything is refused that is not known."""

import asyncio
import contextlib

from argosy_api.access import Access, split_key
from argosy_api.ending import end
from argosy_api.errors import UnauthenticatedError
from argosy_router.tenants.issuers import Issuers
from argosy_router.tenants.keys import KeyBook
from argosy_router.tenants.tenant import ANYBODY, Tenant


class Identity:
    """What the router goes by now; files may change it at any time. Without a document no credential is asked for."""

    def __init__(self) -> None:
        self.access = Access(required=False)
        self.keys = KeyBook({})
        self._issuers = Issuers(())
        self._fresh: asyncio.Task[None] | None = None

    @property
    def required(self) -> bool:
        """Whether a request needs a credential."""
        return self.access.required

    def follow(self, access: Access) -> None:
        """Another document."""
        if access.issuers != self.access.issuers:
            if self._fresh is not None:
                self._fresh.cancel()
            self._issuers, self._fresh = Issuers(access.issuers), None
            if access.issuers:
                self._fresh = asyncio.ensure_future(self._issuers.keep_fresh())
        self.access = access

    async def who(self, authorization: str | None) -> Tenant:
        """The tenant of a request with this `authorization`.

        Raises:
            UnauthenticatedError: it has none, or one that is not to be believed.
            UnavailableError: its issuer's keys could not be had yet.

        """
        if not self.required:
            return ANYBODY
        scheme, _, credential = (authorization or "").partition(" ")
        credential = credential.strip()
        if scheme.lower() != "bearer" or not credential:
            raise UnauthenticatedError("a credential is needed: authorization: Bearer …")
        if split_key(credential) is not None:
            entry = self.keys.find(credential)
            if entry is None:
                raise UnauthenticatedError("the credential is not valid")
            return self._tenant(entry.tenant, admin=entry.admin)
        name, admin = await self._issuers.who(credential)
        return self._tenant(name, admin=admin)

    def _tenant(self, name: str, *, admin: bool) -> Tenant:
        return Tenant(name, self.access.limits_of(name), admin)

    async def close(self) -> None:
        """Reads no keys any more."""
        if self._fresh is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await end(self._fresh)
