#!/usr/bin/env bash
# huggingface-hub 2.4.0
#
# Guess: a download that was killed goes on where it was at the next call: `hf_hub_download` asks for a Range within a call when the
# connection breaks, and older versions did so across calls, too.
# Seen: each call writes to a new file, `<etag>.<8 random digits>.incomplete`; the next call asks for the whole file again, and what the
# killed one had fetched stays in the cache, unused, until somebody deletes it by hand.
# So: a pod that is restarted while it fetches a large model starts at byte 0 each time, and its cache fills with parts of the model:
# with a start deadline shorter than one whole download it never becomes ready. Give the download to a process that is not restarted
# with the server, or fetch with a client that keeps its part (and its ETag) under a name that it finds again.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check huggingface-hub==2.4.0
cat > server.py <<'PY'
import contextlib
import http.server
import sys
import time

BODY, HALF = bytes(48_000_000), 25_000_000


class Hub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    slow = True

    def do_HEAD(self):
        self.begin(200, len(BODY))

    def do_GET(self):
        wanted = self.headers.get("Range")
        first = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        print(first, flush=True)
        self.begin(206 if wanted else 200, len(BODY) - first)
        if Hub.slow:  # half of it, and then nothing: time enough to kill the client
            Hub.slow = False
            self.wfile.write(BODY[first:HALF])
            time.sleep(60)
        else:
            with contextlib.suppress(ConnectionError):
                self.wfile.write(BODY[first:])

    def begin(self, status, length):
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", '"abc"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
print(server.server_port, flush=True)
server.serve_forever()
PY
cat > fetch.py <<'PY'
from huggingface_hub import hf_hub_download

hf_hub_download("org/model", "model.gguf", cache_dir="cache")
PY
venv/bin/python server.py > asked & server=$!
trap 'kill "$server"; rm -rf "$folder"' EXIT
until [ -s asked ]; do sleep 0.1; done
export HF_ENDPOINT="http://127.0.0.1:$(head -1 asked)" HF_HUB_DISABLE_XET=1 HF_HUB_DISABLE_PROGRESS_BARS=1
venv/bin/python fetch.py & client=$!
until [ "$(find cache -name '*.incomplete' -size +10000k 2>/dev/null | wc -l)" = 1 ]; do sleep 0.1; done
kill -9 "$client"; wait "$client" 2>/dev/null || true
venv/bin/python fetch.py
begun=$(tail -n +2 asked | sort -u | tr '\n' ' ')
left=$(find cache -name '*.incomplete' | wc -l)
echo "all requests began at bytes: $begun(guess: 0 and some 20 million)"
echo "parts left behind: $left (guess: 0)"
if [ "$begun" != "0 " ] || [ "$left" != 1 ]; then exit 1; fi
echo "as described"
