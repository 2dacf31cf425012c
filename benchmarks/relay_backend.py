"""An OpenAI-compatible server that generates nothing but time, for routers that speak HTTP to theirs.

python benchmarks/relay_backend.py PORT DECODE_MS

`/v1/completions` answers `max_tokens` tokens, one after each DECODE_MS milliseconds, streamed as vLLM streams them; a
step is common to all streams, as in an engine.
"""

import asyncio
import json
import sys

TEXT = " tok"


class Server:
    """Raw HTTP, so that it takes little of the processors that are measured."""

    def __init__(self, decode_s: float) -> None:
        self._decode_s = decode_s
        self._step = asyncio.Event()

    async def steps(self) -> None:
        while True:
            await asyncio.sleep(self._decode_s)
            step, self._step = self._step, asyncio.Event()
            step.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
                body = await reader.readexactly(int(fields.get(b"content-length", 0)))
                await self._answer(head.split(b" ")[1].decode(), body, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        if not path.startswith("/v1/completions"):
            known = {"/v1/models": {"object": "list", "data": [{"id": "bench", "object": "model"}]}}
            return self._document(writer, known.get(path, {"status": "ok", "model_path": "bench", "model_id": "bench"}))
        asked = json.loads(body)
        count = asked.get("max_tokens", 16)
        if not asked.get("stream"):
            for _ in range(count):
                await self._step.wait()
            choice = {"index": 0, "text": TEXT * count, "logprobs": None, "finish_reason": "length"}
            usage = {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": 1 + count}
            return self._document(writer, {**_head(), "choices": [choice], "usage": usage})
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for i in range(count):
            await self._step.wait()
            reason = "length" if i == count - 1 else None
            choice = {"index": 0, "text": TEXT, "logprobs": None, "finish_reason": reason, "stop_reason": None}
            _chunk(writer, b"data: " + json.dumps({**_head(), "choices": [choice], "usage": None}).encode() + b"\n\n")
        _chunk(writer, b"data: [DONE]\n\n")
        _chunk(writer, b"")
        await writer.drain()
        return None

    @staticmethod
    def _document(writer: asyncio.StreamWriter, document: object) -> None:
        raw = json.dumps(document).encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
        writer.write(head.encode() + raw)


def _head() -> dict[str, object]:
    return {"id": "cmpl-0123456789abcdef01234567", "object": "text_completion", "created": 1, "model": "bench"}


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))


async def main(port: int, decode_ms: float) -> None:
    server = Server(decode_ms / 1000)
    steps = asyncio.ensure_future(server.steps())
    async with await asyncio.start_server(server.serve, "127.0.0.1", port, limit=1 << 20, backlog=1024) as listening:
        await listening.serve_forever()
    steps.cancel()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
