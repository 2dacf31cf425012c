#!/usr/bin/env bash
# httpx 0.28.1, ollama 0.6.3, openai 3.57.0
#
# Guess: a server may write an answer as one line of JSON for each piece, in UTF-8 without escapes: JSON lets U+2028, U+2029 and U+0085
# (line and paragraph separator, next line) stand in a string as they are, and what ends a line of such a stream is "\n".
# Seen: httpx's iter_lines() ends a line at these three, too, since it splits the decoded text as Python's str.splitlines does. The
# ollama client reads its streams with it: one such character in an answer, and it raises JSONDecodeError. The openai client splits
# bytes, and takes the same text in server-sent events.
# So: a server that streams JSON should write these three as \u0085, \u2028 and \u2029, whatever its JSON library does; a client should
# split the bytes of iter_raw() or iter_bytes() at b"\n".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check httpx==0.28.1 ollama==0.6.3 openai==3.57.0
venv/bin/python - <<'PY'
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import ollama
import openai

MESSAGES = [{"role": "user", "content": "x"}]
between, escaped = "", False


class Server(BaseHTTPRequestHandler):
    """Streams "one", the character and "two", as Ollama and as OpenAI do."""

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()
        text = f"one{between}two"
        if self.path == "/api/chat":
            line = {"model": "m", "message": {"role": "assistant", "content": text}, "done": True}
            self.wfile.write(json.dumps(line, ensure_ascii=escaped).encode() + b"\n")
        else:
            choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            event = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
            self.wfile.write(b"data: " + json.dumps(event, ensure_ascii=escaped).encode() + b"\n\ndata: [DONE]\n\n")

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"


def lines():
    with httpx.stream("POST", f"{url}/api/chat", json={}) as response:
        return len(list(response.iter_lines()))


def of_ollama():
    try:
        return "".join(part.message.content for part in ollama.Client(url).chat("m", MESSAGES, stream=True))
    except json.JSONDecodeError:
        return "JSONDecodeError"


def of_openai():
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    stream = client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
    return "".join(part.choices[0].delta.content for part in stream)


changed = False
for between, escaped in [("-", False), ("\u2028", False), ("\u2029", False), ("\x85", False), ("\u2028", True)]:
    got = (lines(), of_ollama(), of_openai())
    text = f"one{between}two"
    broken = between != "-" and not escaped
    print(f"{between!a}, {'escaped' if escaped else 'as it is'}: lines {got[0]}, ollama {got[1]!a}, openai {got[2]!a}")
    changed |= got != ((2, "JSONDecodeError", text) if broken else (1, text, text))
sys.exit(changed)
PY
echo "as described"
