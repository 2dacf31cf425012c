#!/usr/bin/env bash
# openai 3.57.0
#
# Guess: the openai client puts a chat stream together by what its fields mean: text grows, and what only repeats (the role, the id
# and name of a tool call, a number that a server adds to each piece) stays what it is.
# Seen: the stream() helper adds up whatever a delta holds. A role in each of two pieces is "assistantassistant", a tool call's id and
# name repeated beside more arguments are "c1c1" and "ff", a server's own integer is summed, and of two `true` it makes 2. There is no
# error; a message put together so is refused when it is sent back as history.
# So: a server should send role, id and name in the first piece only, put numbers of its own beside the delta and not in it, and be
# tried with this helper, not only with create(stream=True), where each piece is seen as it came.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check openai==3.57.0
venv/bin/python - <<'PY'
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai

deltas = []


class Server(BaseHTTPRequestHandler):
    """Streams the deltas, then the end."""

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()
        for i, delta in enumerate([*deltas, {}]):
            choice = {"index": 0, "delta": delta, "finish_reason": "stop" if i == len(deltas) else None}
            event = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none")


def put_together():
    with client.chat.completions.stream(model="m", messages=[{"role": "user", "content": "x"}]) as stream:
        return stream.get_final_completion().choices[0].message.to_dict()


changed = False


def check(what, got, guess, want):
    global changed
    print(f"{what}: {got!r} (guess: {guess!r})")
    changed |= repr(got) != repr(want)


deltas = [{"role": "assistant", "content": "It "}, {"role": "assistant", "content": "rains."}]
check("text", put_together()["content"], "It rains.", "It rains.")
check("role in each piece", put_together()["role"], "assistant", "assistantassistant")
head = {"index": 0, "id": "c1", "type": "function"}
deltas = [
    {"role": "assistant", "tool_calls": [head | {"function": {"name": "f", "arguments": '{"a"'}}]},
    {"tool_calls": [head | {"function": {"name": "f", "arguments": ": 1}"}}]},
]
[call] = put_together()["tool_calls"]
check("a call's arguments", call["function"]["arguments"], '{"a": 1}', '{"a": 1}')
check("its id", call["id"], "c1", "c1c1")
check("its name", call["function"]["name"], "f", "ff")
deltas = [{"role": "assistant", "content": "a", "seen": 5, "cached": True}, {"content": "b", "seen": 7, "cached": True}]
check("an integer of the server's own", put_together()["seen"], 7, 12)
check("a truth value of the server's own", put_together()["cached"], True, 2)
sys.exit(changed)
PY
echo "as described"
