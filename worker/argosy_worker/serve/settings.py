"""What the process is told: the command line says what to serve, the environment says where it runs."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from argosy_api.blocks import DEFAULT_BLOCK_SIZE
from argosy_worker.core.line import Order


class SettingsError(Exception):
    """A setting is wrong; the message names it and says what would be right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of a worker process, checked."""

    # what to serve
    model_uri: str
    served_name: str
    revision: str = ""
    device: str = "auto"
    compute: str = "auto"
    max_model_len: int = 0
    """0: what the model and the KV cache allow."""
    block_size: int = DEFAULT_BLOCK_SIZE
    max_batch_tokens: int = 256
    max_running: int = 64
    kv_cache_bytes: int = 0
    """0: what the model thinks sensible here."""
    prefix_caching: bool = True
    queue_ageing: float = 0.25
    queue_order: Order = Order.LEAST_WORK
    drain_seconds: float = 30.0
    threads: int = 0
    """0: as many as there are cores."""
    log_json: bool = False
    # where it runs
    namespace: str = "default"
    deployment: str = ""
    worker_id: str = ""
    host: str = "0.0.0.0"
    grpc_port: int = 9000
    metrics_port: int = 9001
    redis_url: str = ""
    """Empty: no events are published; routers subscribe to the worker instead."""
    model_cache: Path = Path("model-cache")
    termination_log: Path | None = None


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Read the command line (wrong ones end the process with code 2, as argparse does) and the environment.

    Raises:
        SettingsError: naming the setting.

    """
    told = _parser().parse_args(arguments)
    if told.max_running > told.max_batch_tokens:
        raise SettingsError(
            f"--max-running is {told.max_running}; must be at most --max-batch-tokens ({told.max_batch_tokens}), "
            "or some running requests would never get their token"
        )
    termination_log = environment.get("ARGOSY_TERMINATION_LOG")
    deployment = environment.get("ARGOSY_DEPLOYMENT") or told.served_name
    return Settings(
        **vars(told),
        namespace=environment.get("ARGOSY_NAMESPACE") or "default",
        deployment=deployment,
        worker_id=environment.get("ARGOSY_WORKER_ID") or f"{deployment}-{os.getpid()}",
        host=environment.get("ARGOSY_HOST") or "0.0.0.0",
        grpc_port=_port(environment, "ARGOSY_GRPC_PORT", 9000),
        metrics_port=_port(environment, "ARGOSY_METRICS_PORT", 9001),
        redis_url=_redis_url(environment),
        model_cache=Path(environment.get("ARGOSY_MODEL_CACHE") or Path.home() / ".cache" / "argosy"),
        termination_log=Path(termination_log) if termination_log else None,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m argosy_worker", description="Serve one model over gRPC.")
    add = parser.add_argument
    add("--model-uri", required=True, help="package://, file://, hf://, pvc:// or sim:// address of the model")
    add("--served-name", required=True, help="name that clients ask for")
    add("--revision", default="", help="revision of the resource, told to routers")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto")
    add("--compute", choices=["auto", "int8", "fp32", "bf16"], default="auto", help="arithmetic of linear layers")
    add("--max-model-len", type=_whole(0, 1 << 24), default=0, help="longest sequence in tokens; 0: what fits")
    add("--block-size", type=_whole(1, 1024), default=DEFAULT_BLOCK_SIZE, help="tokens in a KV cache block")
    add("--max-batch-tokens", type=_whole(1, 1 << 20), default=256, help="token budget of a step")
    add("--max-running", type=_whole(1, 4096), default=64, help="requests that hold blocks at a time")
    add("--kv-cache-bytes", type=_whole(0, 1 << 50), default=0, help="size of the KV cache; 0: automatic")
    add("--prefix-caching", action=argparse.BooleanOptionalAction, default=True)
    add("--queue-ageing", type=_number(0, 1e6), default=0.25, help="seconds of work that a second of waiting outweighs")
    add("--queue-order", type=Order, choices=list(Order), default=Order.LEAST_WORK)
    add("--drain-seconds", type=_number(0, 3600), default=30.0, help="time for running requests after SIGTERM")
    add("--threads", type=_whole(0, 1024), default=0, help="compute threads; 0: all cores")
    add("--log-json", action="store_true", help="one JSON object for each line of the log")
    return parser


class _whole:  # noqa: N801 - used like a function; a class has the name that argparse shows
    def __init__(self, low: int, high: int) -> None:
        self._low, self._high = low, high

    def __call__(self, text: str) -> int:
        value = int(text)
        if not self._low <= value <= self._high:
            raise argparse.ArgumentTypeError(f"is {value}; must be {self._low} to {self._high}")
        return value

    def __repr__(self) -> str:
        return "integer"


class _number:  # noqa: N801 - as above
    def __init__(self, low: float, high: float) -> None:
        self._low, self._high = low, high

    def __call__(self, text: str) -> float:
        value = float(text)
        if not self._low <= value <= self._high:  # also refuses NaN
            raise argparse.ArgumentTypeError(f"is {text}; must be {self._low:g} to {self._high:g}")
        return value

    def __repr__(self) -> str:
        return "number"


def _port(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise SettingsError(f"{name} is {text!r}; must be a port number, 0 to 65535")
    return int(text)


def _redis_url(environment: Mapping[str, str]) -> str:
    url = environment.get("ARGOSY_REDIS_URL", "")
    if url and not url.startswith(("redis://", "rediss://", "unix://")):
        raise SettingsError("ARGOSY_REDIS_URL must begin with redis://, rediss:// or unix://")  # it may hold a password
    try:
        urlsplit(url).port  # noqa: B018 - computed when asked for
    except ValueError:
        raise SettingsError("ARGOSY_REDIS_URL has a port that is no number from 0 to 65535") from None
    return url
