"""The router's settings: command line, with the Redis URL from the environment (it may hold a password)."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from argosy_api import net
from argosy_api.process import redis_url
from argosy_router.origins import parse_origins


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that the router can be told. Times in seconds."""

    membership: str
    """Where the workers are announced: `file:PATH` (or `kubernetes`)."""
    host: str = net.EVERYWHERE
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    redis_url: str | None = None
    """None: KV events and load come from the workers directly."""
    drain_seconds: float = 30.0
    """After SIGTERM: time for running streams to end."""
    max_wait_seconds: float = 300.0
    """A request that would wait for its first token for longer than that is refused at once."""
    attempts: int = 3
    """Workers tried for one request before its first token."""
    access: str | None = None
    """The document that says who may ask (`argosy_api.access`). None: anybody may."""
    api_keys: str | None = None
    """A directory with what is kept of API keys."""
    orders: str | None = None
    """A directory where orders for whoever runs the workers are left (`argosy up`): then the page may kill one."""
    decision_headers: bool = False
    """Whether clients are told why a worker was chosen: it tells of others' requests, too."""
    picker_port: int | None = None
    """Where gateways ask for an endpoint (docs/gateways.md). None: nowhere."""
    picker_routers: tuple[tuple[str, int], ...] = ()
    """Host and port of all routers' HTTP fronts; names are looked up again and again."""
    tls: str | None = None
    """A directory with the certificate (tls.crt, tls.key) of the HTTP and gRPC ports. None: no TLS."""
    tls_clients: str | None = None
    """A file with authorities of which one must have signed a client's certificate. None: clients need none."""
    picker_tls: str | None = None
    """The same as `tls`, of the picker's port."""
    picker_tls_clients: str | None = None
    """The same as `tls_clients`, of gateways."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may ask over HTTP."""


def parse(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings from the command line; wrong ones end the process with argparse's message."""
    parser = argparse.ArgumentParser(
        prog="python -m argosy_router",
        description="One front for all deployments: gRPC, OpenAI HTTP, KV-aware routing.",
    )
    add = parser.add_argument
    add("--membership", required=True, help="who is there: file:PATH, or kubernetes")
    add("--host", default=Settings.host, help="address to listen on (default: %(default)s)")
    add("--http-port", type=_port, default=Settings.http_port, help="OpenAI-compatible HTTP (default: %(default)s)")
    add("--grpc-port", type=_port, default=Settings.grpc_port, help="gRPC (default: %(default)s)")
    add("--metrics-port", type=_port, default=Settings.metrics_port, help="Prometheus metrics (default: %(default)s)")
    add("--drain-seconds", type=_seconds, default=Settings.drain_seconds, help="for running streams, after SIGTERM")
    add(
        "--max-wait-seconds",
        type=_seconds,
        default=Settings.max_wait_seconds,
        help="longest wait for a first token that is worth it",
    )
    add("--attempts", type=_count, default=Settings.attempts, help="workers tried before a request's first token")
    add("--decision-headers", type=_boolean, default=False, help="true: clients are told why a worker was chosen")
    add("--orders", metavar="DIRECTORY", help="where `argosy up` takes orders from, as to kill a worker")
    add("--access", metavar="FILE", help="who may ask, and how much; without it anybody may")
    add("--api-keys", metavar="DIRECTORY", help="API keys, one small file each, as a mounted Secret")
    add("--picker-port", type=_port, help="gateways ask here which router a request should go to (default: nowhere)")
    add("--picker-routers", type=_places, default=(), metavar="HOST:PORT,…", help="the routers that they are told of")
    add("--tls", metavar="DIRECTORY", help="certificate of the HTTP and gRPC ports: tls.crt and tls.key")
    add("--tls-clients", metavar="FILE", help="authorities that sign clients' certificates: without one nobody may ask")
    add("--picker-tls", metavar="DIRECTORY", help="as --tls, for the picker's port")
    add("--picker-tls-clients", metavar="FILE", help="as --tls-clients, for gateways")
    add(
        "--cors-origins",
        type=_origins,
        default=(),
        metavar="ORIGIN,…",
        help="whose pages browsers let ask over HTTP, as https://chat.example.org; * for any",
    )
    values = vars(parser.parse_args(arguments))
    scheme, _, rest = values["membership"].partition(":")
    if not (values["membership"] == "kubernetes" or (scheme == "file" and rest)):
        parser.error(f"--membership: {values['membership']!r} is neither file:PATH nor kubernetes")
    if values["picker_port"] is not None and not values["picker_routers"]:
        parser.error("--picker-port: needs --picker-routers, or there is nobody to be told of")
    for option in ("tls", "picker_tls"):
        if values[option + "_clients"] and not values[option]:
            name = "--" + option.replace("_", "-")
            parser.error(f"{name}-clients: needs {name}, or clients have nothing to answer with their certificates")
    if values["picker_tls"] and values["picker_port"] is None:
        parser.error("--picker-tls: needs --picker-port")
    return Settings(**values, redis_url=redis_url(environment) or None)


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text} is neither true nor false")
    return text == "true"


def _origins(text: str) -> tuple[str, ...]:
    try:
        return parse_origins(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{value} is not a port (0 to 65535; 0: any free one)")
    return value


def _places(text: str) -> tuple[tuple[str, int], ...]:
    found = []
    for item in text.split(","):
        host, _, port = item.strip().rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 65536):
            raise argparse.ArgumentTypeError(f"{item!r} is not HOST:PORT")
        found.append((host.strip("[]"), int(port)))
    return tuple(found)


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 64:
        raise argparse.ArgumentTypeError(f"{value} is not within 1 to 64")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 86_400:  # also refuses NaN
        raise argparse.ArgumentTypeError(f"{text} is not within 0 to 86400 seconds")
    return value
