#!/usr/bin/env bash
# grpcio 1.85.3
#
# Guess: whoever calls a bidirectional method through grpc.aio learns the status that the server ended the call with, whether or not he
# still writes: what goes wrong with a write is told by the call's status.
# Seen: the server refuses a call with RESOURCE_EXHAUSTED and a hint in the trailing metadata while the client writes. Of most calls the
# client reads INTERNAL, "Internal error from Core", without trailing metadata: a write that meets the end of the call makes a status of
# its own, and that one stays, in `read`, `code` and `trailing_metadata` alike. Of a client that writes no second message, none is.
# So: INTERNAL of a bidirectional call says nothing of the server. Who retries by status should take this text for UNAVAILABLE; a server
# that must be heard should send its refusal as a message before it ends the call.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check grpcio==1.85.3
venv/bin/python - <<'PY'
import asyncio
import collections
import sys

import grpc

CALLS, WRITES = 300, 20


async def refuse(requests, context):
    await context.read()
    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", (("retry-after", "7"),))


class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.stream_stream_rpc_method_handler(refuse)


async def ended(channel, writes):
    """Status and trailing metadata of one call."""
    call = channel.stream_stream("/x/Refuse")()

    async def write():
        try:
            for _ in range(writes):
                await call.write(b"x")
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the reader says what is wrong

    writing = asyncio.ensure_future(write())
    try:
        await call.read()
    except grpc.aio.AioRpcError as error:
        await writing
        return f"{error.code().name}: {error.details()}", dict(error.trailing_metadata()).get("retry-after")
    await writing
    return f"{(await call.code()).name}: {await call.details()}", dict(await call.trailing_metadata()).get("retry-after")


async def main():
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    found = {}
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for writes in (1, WRITES):
            found[writes] = collections.Counter([await ended(channel, writes) for _ in range(CALLS)])
            print(f"{writes} written: {dict(found[writes])}")
    await server.stop(None)
    told, lost = ("RESOURCE_EXHAUSTED: full", "7"), ("INTERNAL: Internal error from Core", None)
    return found[1] != {told: CALLS} or not found[WRITES][lost] or set(found[WRITES]) - {told, lost}


sys.exit(bool(asyncio.run(main())))
PY
echo "as described"
