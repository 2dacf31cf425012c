"""The API server is away for longer than a lease lasts: nothing is removed, and all that was asked meanwhile comes.

The way to it is cut in a proxy: connections are refused, or nothing passes them any more and nobody says so.
"""

import asyncio
import contextlib

import pytest
from operator_kit import document
from waiting import eventually

from argosy_kube.lease import LeaseTerms

LEASE_S = 2
AWAY_S = 2 * LEASE_S


class Way:
    """A proxy before the fake API server."""

    def __init__(self, target: str) -> None:
        self._host, self._port = target.removeprefix("http://").rsplit(":", 1)
        self._open, self._refused = asyncio.Event(), False
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.swallowed = 0
        """Pieces that did not pass, and connections that were refused."""

    @contextlib.asynccontextmanager
    async def serving(self):
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            self.mend()
            server.close()
            for writer in self._writers:
                writer.close()

    def cut(self, *, refuse: bool) -> None:
        self._refused = refuse
        self._open.clear()
        if refuse:
            for writer in self._writers:
                writer.transport.abort()

    def mend(self) -> None:
        self._refused = False
        self._open.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refused:
            self.swallowed += 1
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection(self._host, int(self._port))
        self._writers |= {writer, back}
        try:
            await asyncio.gather(self._pass(reader, back), self._pass(there, writer))
        except OSError:
            pass
        finally:
            self._writers -= {writer, back}
            writer.transport.abort()
            back.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65_536):
            if not self._open.is_set():
                self.swallowed += 1
                await self._open.wait()
            writer.write(piece)
            await writer.drain()
        raise ConnectionResetError


@pytest.mark.parametrize("refuse", [True, False], ids=["refused", "silent"])
async def test_nothing_goes_while_it_is_away_and_all_comes_when_it_is_back(world, refuse):
    way = Way(world.url)
    async with way.serving() as url:
        lease = LeaseTerms(namespace="argosy", name="operator", identity="one", duration_s=LEASE_S)
        operator = await world.operator(url=url, lease=lease, resync_s=5.0)
        world.apply(document(replicas=3))
        await eventually(world.is_ready)
        before, written = set(world.controllers.pods("m")), world.status()
        way.cut(refuse=refuse)
        world.scale("m", 4)
        await asyncio.sleep(AWAY_S)
        assert way.swallowed, "nobody asked meanwhile: nothing was tried"
        assert set(world.controllers.pods("m")) == before
        assert world.status() == written
        way.mend()
        await eventually(lambda: world.is_ready() and world.status()["ready"] == "4/4")
        assert before < set(world.controllers.pods("m"))
        assert world.calls("DELETE") == []
        world.delete("m")
        await eventually(lambda: world.key("m") not in world.server.objects and not world.children())
        await world.stop(operator)
