"""The public keys of all issuers: read at the start, again from time to time, and when a token names an unknown one."""

import asyncio
import logging
from pathlib import Path

import aiohttp

from argosy_api import limits
from argosy_api.access import Issuer
from argosy_api.errors import UnauthenticatedError, UnavailableError
from argosy_router.clock import now
from argosy_router.tenants.issuer import PublicKeys, UnknownKeyError, issued_by, verified

log = logging.getLogger(__name__)

REFRESH_S = 300.0
LEAST_S = 10.0
"""Between two readings of one key set: tokens of unknown keys may come at any rate."""
CALL_S = 5.0


class _Known:
    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer
        self.keys: PublicKeys | None = None
        self.tried_at = float("-inf")
        self.lock = asyncio.Lock()


class Issuers:
    """Of one document."""

    def __init__(self, issuers: tuple[Issuer, ...]) -> None:
        self._known = {issuer.issuer: _Known(issuer) for issuer in issuers}

    async def who(self, token: str) -> tuple[str, bool]:
        """Tenant, and whether it is an admin's token.

        Raises:
            UnauthenticatedError: it is not to be believed.
            UnavailableError: its issuer's keys could not be had yet.

        """
        known = self._known.get(issued_by(token))
        if known is None:
            raise UnauthenticatedError("the credential is not valid")
        if known.keys is None:
            await self._refresh(known)
        if known.keys is None:
            raise UnavailableError("the keys of the token's issuer could not be read yet; try again")
        try:
            return verified(token, known.issuer, known.keys)
        except UnknownKeyError:
            if not await self._refresh(known):
                raise
            return verified(token, known.issuer, known.keys)

    async def keep_fresh(self) -> None:
        """Reads all key sets again and again."""
        while True:
            for known in self._known.values():
                await self._refresh(known)
            await asyncio.sleep(REFRESH_S)

    async def _refresh(self, known: _Known) -> bool:
        """Whether the keys were read anew. What can't be read leaves those that are there."""
        before = known.tried_at
        async with known.lock:
            if known.tried_at != before:  # somebody else has just done it
                return known.keys is not None
            if now() - known.tried_at < LEAST_S:
                return False
            known.tried_at = now()
            try:
                known.keys = PublicKeys(await _text(known.issuer))
            except (OSError, aiohttp.ClientError, TimeoutError, ValueError) as error:
                log.warning(
                    "the keys of %s could not be read: %s", known.issuer.issuer, str(error) or type(error).__name__
                )
                return False
            return True


async def _text(issuer: Issuer) -> str:
    if issuer.jwks_file:
        return await asyncio.to_thread(_read, Path(issuer.jwks_file))
    timeout = aiohttp.ClientTimeout(total=CALL_S)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(issuer.jwks_url, allow_redirects=False) as answer,
    ):
        if answer.status != 200:
            raise ValueError(f"HTTP {answer.status}")
        return _checked(await answer.content.read(limits.MAX_JWKS_BYTES + 1))


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return _checked(file.read(limits.MAX_JWKS_BYTES + 1))


def _checked(data: bytes) -> str:
    if len(data) > limits.MAX_JWKS_BYTES:
        raise ValueError(f"more than {limits.MAX_JWKS_BYTES} bytes")
    return data.decode()
