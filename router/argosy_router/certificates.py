"""The router's certificate, from files that are read again when they change, as those of a mounted Secret do.

Connections that are there keep the certificate with which they began.
"""

import asyncio
import logging
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from argosy_api.errors import InvalidArgumentError
from argosy_api.tls import server_context

log = logging.getLogger(__name__)

LOOK_S = 1.0
MAX_BYTES = 1 << 20
CERTIFICATE, KEY = "tls.crt", "tls.key"
"""As in Secrets of type kubernetes.io/tls."""


@dataclass(frozen=True, slots=True)
class Material:
    """What the files hold, PEM each."""

    certificate: bytes
    key: bytes = field(repr=False)
    clients: bytes | None = None
    """Authorities of which one must have signed a client's certificate; None: clients need none."""

    def context(self) -> ssl.SSLContext:
        """For HTTP.

        Raises:
            ValueError: something of it is not what it should be.

        """
        try:
            clients = None if self.clients is None else self.clients.decode("ascii")
            context = server_context(self.certificate, self.key, clients)
        except ssl.SSLError as error:
            raise ValueError(str(error)) from None
        context.set_alpn_protocols(["http/1.1"])
        return context

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """For gRPC."""
        return grpc.ssl_server_certificate_configuration([(self.key, self.certificate)], self.clients)


class Certificates:
    """Of one port or several. `load` once, then `watch`."""

    def __init__(self, option: str, directory: str, clients: str | None = None) -> None:
        """`option`: what to name in errors. `directory` has tls.crt and tls.key; `clients` is a file."""
        self._option = option
        self._directory = Path(directory)
        self._clients = Path(clients) if clients else None
        self._material: Material | None = None
        self._context: ssl.SSLContext | None = None
        self._told = ""

    async def load(self) -> None:
        """The first reading.

        Raises:
            InvalidArgumentError: a file is not there, or is wrong.

        """
        try:
            self._take(await asyncio.to_thread(self._read))
        except (OSError, ValueError) as error:
            raise InvalidArgumentError(self._option, f"{self._directory}: {_why(error)}") from None

    async def watch(self) -> None:
        """Follows the files. What can't be read, or is wrong, changes nothing; runs until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                found = await asyncio.to_thread(self._read)
                if found != self._material:
                    self._take(found)
                    log.info("%s: a new certificate is shown from now on", self._directory)
                self._told = ""
            except (OSError, ValueError) as error:
                self._tell(f"{self._directory}: {_why(error)}; what was read before stays")

    def context(self) -> ssl.SSLContext:
        """For a new connection over HTTP."""
        if self._context is None:
            raise RuntimeError("load() comes first")
        return self._context

    def credentials(self) -> grpc.ServerCredentials:
        """For a gRPC server, which asks for what is new at each connection."""
        shown = self._current()

        def fresh() -> grpc.ServerCertificateConfiguration | None:
            nonlocal shown
            if (found := self._current()) is shown:
                return None
            shown = found
            return found.configuration()

        return grpc.dynamic_ssl_server_credentials(
            shown.configuration(),
            fresh,  # type: ignore[arg-type]  # None says "as before"; the stub does not know
            require_client_authentication=self._clients is not None,
        )

    def _current(self) -> Material:
        if self._material is None:
            raise RuntimeError("load() comes first")
        return self._material

    def _take(self, found: Material) -> None:
        self._context = found.context()  # also the proof that gRPC can use it
        self._material = found

    def _read(self) -> Material:
        clients = None if self._clients is None else _bytes(self._clients)
        return Material(_bytes(self._directory / CERTIFICATE), _bytes(self._directory / KEY), clients)

    def _tell(self, problem: str) -> None:
        if problem != self._told:
            self._told = problem
            log.warning("%s", problem)


def _bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path.name} has more than {MAX_BYTES} bytes")
    return data


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{Path(error.filename).name}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__
