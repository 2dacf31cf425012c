"""Headers by HTTP range requests: how little is moved, and what a server may do wrong."""

import contextlib
import io
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from argosy_api import limits
from argosy_api.errors import ModelDownloadError, ModelError, ModelNotFoundError
from argosy_api.model_uri import ModelUri
from argosy_cli.planning.headers import remote_header
from argosy_worker.fetch import ranges
from argosy_worker.fetch.ranges import RangedFile, hub_url

SIZE = 5_000_000_000


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def header(vocab=32_000):
    """A GGUF header of a model with one Q8_0 embedding of 5 GB, whose data is nowhere."""
    values = {"block_count": 2, "context_length": 4096, "embedding_length": 64, "feed_forward_length": 128,
              "attention.head_count": 4, "attention.head_count_kv": 2}  # fmt: skip
    pairs = [text("general.architecture") + struct.pack("<I", 8) + text("llama")]
    pairs += [text(f"llama.{k}") + struct.pack("<II", 4, v) for k, v in values.items()]
    pairs.append(text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", 6, 1e-5))
    tokens = b"".join(text(f"token{i}") for i in range(vocab))
    pairs.append(text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, vocab) + tokens)
    tensor = text("token_embd.weight") + struct.pack("<IQQIQ", 2, 64, vocab, 8, 0)
    return b"GGUF" + struct.pack("<IQQ", 3, 1, len(pairs)) + b"".join(pairs) + tensor


class Server(ThreadingHTTPServer):
    def __init__(self, respond):
        self.respond, self.sent, self.seen = respond, 0, []
        super().__init__(("127.0.0.1", 0), Handler)

    def url(self, path="/m.gguf"):
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.seen.append((self.path, dict(self.headers)))
        with contextlib.suppress(OSError):
            self.server.respond(self)

    def send(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        self.server.sent += len(body)

    def asked(self):
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        return int(first), int(last)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    started = []

    def make(respond):
        server = Server(respond)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        started.append((server, thread))
        return server

    yield make
    for server, thread in started:
        server.shutdown()
        thread.join()
        server.server_close()


def sparse(begin, size=SIZE):
    """A server of a file that begins so, and of zeros behind it."""

    def respond(request):
        first, last = request.asked()
        last = min(last, size - 1)
        part = begin[first : last + 1]
        request.send(206, part + bytes(last + 1 - first - len(part)), Content_Range=f"bytes {first}-{last}/{size}")

    return respond


def test_a_file_of_5_gb_costs_less_than_2_mb(serve):
    server = serve(sparse(header()))
    found = remote_header(server.url())
    assert (found.config.layers, found.config.vocab_size, found.embedding) == (2, 32_000, "Q8_0")
    assert 0 < server.sent <= 2_000_000


def test_a_configuration(serve):
    body = b'{"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 100, "max_position_embeddings": 128, "intermediate_size": 128}'
    server = serve(sparse(body, len(body)))
    assert remote_header(server.url("/r/resolve/main/config.json")).config.layers == 2


def endless(request):
    """A header whose strings go on and on."""
    begin = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text("k") + struct.pack("<IIQ", 9, 8, 1 << 20)
    first, last = request.asked()
    one = text("x" * 4096)
    body = (begin + one * ((last + len(one)) // len(one) + 1))[first : last + 1]
    request.send(206, body, Content_Range=f"bytes {first}-{last}/{SIZE}")


def flood(request):
    """Sends on after what it says."""
    first, last = request.asked()
    request.send_response(206)
    request.send_header("Content-Range", f"bytes {first}-{last}/{SIZE}")
    request.end_headers()
    for _ in range(10_000):
        request.wfile.write(bytes(1 << 20))
        request.server.sent += 1 << 20


def answer(status, body=b"", **headers):
    return lambda request: request.send(status, body, **headers)


@pytest.mark.parametrize(
    ("respond", "message"),
    [
        (answer(200, b"GGUF" + bytes(100)), "ignores Range"),
        (answer(206, bytes(100)), "does not say which"),
        (answer(206, bytes(100), Content_Range="bytes 5-104/200"), "the server sends 'bytes 5-104/200'"),
        (answer(206, bytes(100), Content_Range="bytes 0-9/10", Content_Length="100"), "more bytes than it says"),
        (answer(206, bytes(5), Content_Range="bytes 0-9/10", Content_Length="5"), "says 10 bytes and sends 5"),
        (answer(206, bytes(5), Content_Range="bytes 0-9/10", Content_Length="10"), "cannot be reached"),
        (answer(206, bytes(9), Content_Range=f"bytes 0-{limits.REMOTE_CHUNK - 1}/{10**30}"), "does not say which"),
        (answer(302, Location="/m.gguf"), "redirects more than 5 times"),
        (answer(302, Location="ftp://elsewhere/m.gguf"), "redirects to ftp"),
        (answer(302, Location="file:///etc/passwd"), "redirects to file"),
        (answer(503), "answers HTTP 503"),
        (endless, "longer than"),
        (flood, "more bytes than it says"),
    ],
)
def test_what_a_server_does_wrong_is_told(serve, respond, message, monkeypatch):
    monkeypatch.setattr(limits, "MAX_REMOTE_HEADER", 2 << 20)
    server = serve(respond)
    with pytest.raises(ModelDownloadError, match=f"'m.gguf': .*{message}"):
        remote_header(server.url())
    assert server.sent < 64 << 20


def test_a_file_that_changes_between_two_requests_is_noticed(serve):
    sizes = iter([SIZE, SIZE + 1])

    def respond(request):
        sparse(header(), next(sizes))(request)

    with pytest.raises(ModelDownloadError, match="were asked for"):
        remote_header(serve(respond).url())


def test_no_such_file(serve):
    with pytest.raises(ModelNotFoundError, match="no such file"):
        remote_header(serve(answer(404)).url())


def test_nobody_there(free_port):
    with pytest.raises(ModelDownloadError, match="cannot be reached"):
        RangedFile(f"http://127.0.0.1:{free_port()}/m.gguf")


def test_a_server_that_trickles_is_left(serve, monkeypatch):
    gone = threading.Event()
    monkeypatch.setattr(ranges, "_TIMEOUT", 0.2)

    def respond(request):
        gone.wait(30)
        request.send(206)

    with pytest.raises(ModelDownloadError, match="in time"):
        RangedFile(serve(respond).url())
    gone.set()


def test_a_token_goes_to_its_own_host_alone(serve):
    other = serve(sparse(header()))
    hub = serve(answer(302, Location=other.url()))
    with RangedFile(hub.url(), token="secret") as file:
        assert file.size == SIZE
    assert hub.seen[0][1]["Authorization"] == "Bearer secret"
    assert all("Authorization" not in headers for _, headers in other.seen)


def test_what_is_no_model_is_refused_from_a_few_bytes(serve):
    server = serve(sparse(b"<html>"))
    with pytest.raises(ModelError, match="starts with b'<htm'"):
        remote_header(server.url())
    assert server.sent <= limits.REMOTE_CHUNK


def test_any_part_can_be_read(serve):
    begin = bytes(range(256)) * 4096
    with RangedFile(serve(sparse(begin, len(begin))).url()) as remote, io.BufferedReader(remote, 1000) as file:
        for at in (0, 1_000_000, 700, len(begin) - 3):
            file.seek(at)
            assert file.read(900) == begin[at : at + 900]


def test_where_a_hub_has_it():
    endpoint = {"HF_ENDPOINT": "http://hub/"}
    assert hub_url(ModelUri.parse("hf://o/r/f.gguf@v1"), endpoint) == "http://hub/o/r/resolve/v1/f.gguf"
    assert hub_url(ModelUri.parse("hf://o/r"), {}) == "https://huggingface.co/o/r/resolve/main/config.json"
