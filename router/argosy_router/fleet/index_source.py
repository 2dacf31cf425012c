"""Where one worker's KV events come from, and how one is read."""

import asyncio
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from argosy_api.keys import BATCH_FIELD
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.fleet.peer import Peer


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
