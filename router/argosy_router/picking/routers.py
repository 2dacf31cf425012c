"""Where the routers are that a gateway may send to: addresses, or names that are looked up again and again."""

import asyncio
import logging
import socket
from collections.abc import Sequence

from argosy_api import net

log = logging.getLogger(__name__)

LOOK_S = 2.0


class Routers:
    """The addresses, as `ip:port`. `follow` runs beside it."""

    def __init__(self, places: Sequence[tuple[str, int]]) -> None:
        self.addresses: tuple[str, ...] = ()
        self._places = places
        self._problem = ""

    async def follow(self) -> None:
        """Looks up the names; runs until it is cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Once. A name that is not found now keeps all that was known."""
        try:
            found = [a for host, port in self._places for a in await _addresses(host, port)]
        except OSError as error:
            if str(error) != self._problem:
                self._problem = str(error)
                log.warning("the routers' addresses: %s; keeping those that were known", error)
            return
        self._problem = ""
        self.addresses = tuple(sorted(set(found)))


async def _addresses(host: str, port: int) -> list[str]:
    """Of the family that comes first: a pod with addresses of both is one router."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [net.address(str(where[0]), port) for family, _, _, _, where in found if family == found[0][0]]
