"""Addresses and listening sockets: both families of IP everywhere, and the true reason where that fails."""

import socket
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

EVERYWHERE = "::"
"""As a host to listen on: all addresses of this machine, of both families."""

Page = tuple[int, str, bytes]
"""Status, content type, body."""


def address(host: str, port: int) -> str:
    """host:port as clients and gRPC write it: an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(host: str, port: int, *, backlog: int = 128) -> socket.socket:
    """A listening TCP socket; on EVERYWHERE one for both families, or for IPv4 where the machine has no IPv6.

    Raises:
        OSError: the port is taken, not ours to take, or there is no such address here; `strerror` says which.

    """
    if host == EVERYWHERE:
        try:
            return socket.create_server(
                (host, port), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=socket.has_dualstack_ipv6()
            )
        except OSError:
            if _has_ipv6():
                raise
            return socket.create_server(("0.0.0.0", port), backlog=backlog)
    family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(where[:2], family=family, backlog=backlog)


def why_not(host: str, port: int) -> str:
    """Why nobody can listen there, for libraries that do not say it; empty when one can (by now)."""
    try:
        listen(host, port).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _has_ipv6() -> bool:
    try:
        socket.create_server((EVERYWHERE, 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


class PageServer:
    """A small HTTP server with threads of its own: it answers also when an event loop or an engine is stuck."""

    def __init__(self, host: str, port: int, page: Callable[[str], Page]) -> None:
        """Listen and answer from now on; `page` gets the path of each GET.

        Raises:
            OSError: see `listen`.

        """

        class Handler(BaseHTTPRequestHandler):
            timeout = 10  # of an idle or slow connection, in seconds

            def do_GET(self) -> None:
                status, kind, body = page(self.path.partition("?")[0])
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                """Probes come every few seconds; nobody wants to read about them."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

        listening = listen(host, port)
        self._server = Server(listening.getsockname()[:2], Handler, bind_and_activate=False)
        self._server.socket.close()  # the one that it made for itself
        self._server.socket = listening
        self.port: int = listening.getsockname()[1]
        self._thread = Thread(target=self._server.serve_forever, name="pages", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer no more, and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
