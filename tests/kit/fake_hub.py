"""A hub that models are downloaded from, on this machine, with the faults that a test wants."""

import contextlib
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = b'{"model_type": "llama"}'
WEIGHTS = bytes(range(256)) * 4096


@dataclass
class FakeHub:
    """The part of a hub's HTTP interface that downloads need, with files and faults as a test wants them."""

    files: dict[str, bytes]
    gated: bool = False
    private_token: str | None = None
    fail_first: int = 0
    """This many requests are answered with 503."""
    cut_first: int = 0
    """This many downloads of weights break off in the middle."""
    spoil_first: int = 0
    """This many downloads of weights come with one byte wrong."""
    ignores_ranges: bool = False
    sums: bool = True
    """It tells checksums."""
    ranges: list[str] = field(default_factory=list)
    """Asked for, of weights; empty for all of it."""
    served: int = 0
    """Bytes of weights."""
    hold: threading.Event | None = None
    """Downloads of weights wait for it in the middle."""
    seen: list[tuple[str, str]] = field(default_factory=list)
    elsewhere: str = ""
    """Address of another one, to which downloads of weights are sent."""
    tokens: set[str] = field(default_factory=set)
    url: str = ""

    def downloaded(self) -> set[str]:
        return {path.rsplit("/", 1)[1] for method, path in self.seen if method == "GET" and "/resolve/" in path}


@contextlib.contextmanager
def serving():
    """A hub with one repository, org/repo."""
    fake = FakeHub(
        {"config.json": CONFIG, "model.safetensors": WEIGHTS, "pytorch_model.bin": b"pickle", "README.md": b"#"}
    )

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, *, body):
            path = urlsplit(self.path).path
            fake.seen.append((self.command, path))
            if fake.fail_first > 0:
                fake.fail_first -= 1
                return self.send(503, b"busy", body)
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            fake.tokens.add(token)
            if fake.private_token is not None and token != fake.private_token:
                return self.send(401, b"", body, {"X-Error-Code": "" if token else "RepoNotFound"})
            if fake.gated:
                return self.send(403, b"", body, {"X-Error-Code": "GatedRepo"})
            if not path.startswith(("/api/models/org/repo", "/org/repo/")):
                return self.send(404, b"", body, {"X-Error-Code": "RepoNotFound"})
            if match := re.fullmatch(r"/api/models/org/repo/revision/(.+)", path):
                if match[1] not in ("main", "v1", COMMIT):
                    return self.send(404, b"", body, {"X-Error-Code": "RevisionNotFound"})
                siblings = [described(name, data) for name, data in fake.files.items()]
                return self.send(
                    200, json.dumps({"id": "org/repo", "sha": COMMIT, "siblings": siblings}).encode(), body
                )
            name = path.split(f"/resolve/{COMMIT}/", 1)[-1]
            return self.send_file(name, body)

        def send_file(self, name, body):
            data = fake.files.get(name)
            if data is None:
                return self.send(404, b"", body, {"X-Error-Code": "EntryNotFound"})
            headers = {"X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            start, asked = 0, self.headers.get("Range", "")
            if (match := re.fullmatch(r"bytes=(\d+)-", asked)) and not fake.ignores_ranges:
                start = int(match[1])
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            weights = body and name.endswith((".safetensors", ".gguf"))
            if weights and fake.elsewhere:
                return self.send(302, b"", body, {"Location": fake.elsewhere + self.path})
            if weights:
                fake.ranges.append(asked)
                if fake.spoil_first > 0:
                    fake.spoil_first -= 1
                    data = data[:-1] + bytes([data[-1] ^ 1])
            if weights and (fake.cut_first > 0 or fake.hold is not None):
                cut, fake.cut_first = fake.cut_first > 0, max(0, fake.cut_first - 1)
                self.send(206 if start else 200, data[start:], False, headers)
                middle = (start + len(data)) // 2
                self.wfile.write(data[start:middle])
                self.wfile.flush()
                fake.served += middle - start
                if fake.hold is not None:
                    fake.hold.wait(60)
                if cut:
                    self.close_connection = True
                    return None
                self.wfile.write(data[middle:])
                fake.served += len(data) - middle
                return None
            fake.served += len(data) - start if weights else 0
            return self.send(206 if start else 200, data[start:], body, headers)

        def send(self, status, data, body, headers=None):
            self.send_response(status)
            for key, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

    def described(name, data):
        about = {"rfilename": name, "size": len(data)}
        if fake.sums:
            about["blobId"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            if len(data) > 1000:
                about["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 1}
        return about

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
