"""Where one worker's KV events come from, and how one is read."""

import asyncio
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from argosy_api import limits
from argosy_api.keys import BATCH_FIELD
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.fleet.peer import Peer

_MAX_DIGITS = 20
"""Of an epoch."""


@dataclass(slots=True)
class Source:
    """How one worker's events come. `stream_id` is set in stream mode."""

    worker: Peer
    why: str = "start"
    stream_id: bytes | None = None
    direct: "asyncio.Task[None] | None" = None
    missed: int = 0


def parse(fields: dict[bytes, bytes]) -> pb.KvEventBatch | None:
    """None for anything that is not a batch: what stands in Redis is not trusted."""
    try:
        return pb.KvEventBatch.FromString(fields[BATCH_FIELD])
    except (KeyError, DecodeError):
        return None


def parse_load(raw: bytes) -> pb.Load | None:
    """None for anything that is no load: neither what cannot be read, nor what is longer than any worker's."""
    if len(raw) > limits.MAX_LOAD_BYTES:
        return None
    try:
        return pb.Load.FromString(raw)
    except DecodeError:
        return None


def parse_lease(raw: bytes | None) -> int | None:
    """The epoch in a lease; None where there is none."""
    return int(raw) if raw is not None and len(raw) <= _MAX_DIGITS and raw.isdigit() else None
