"""TLS of the clients' ports: HTTP and gRPC, clients' certificates, and files that change while the router runs."""

import asyncio
import json
import os
import shutil
import socket
import ssl
import sys
from types import SimpleNamespace

import aiohttp
import grpc
import pytest
import pytest_asyncio
from authority import Authority, MountedSecret
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from router_kit import FakeWorker, answer_of, decode, encode
from waiting import eventually

from argosy_api.errors import InvalidArgumentError
from argosy_api.membership import Deployment, Membership
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc
from argosy_router import certificates, settings
from argosy_router.certificates import Certificates
from argosy_router.fronts.connections import Connections

HELLO = {"model": "m", "prompt": "hello", "max_tokens": 8}
TEXT = decode(answer_of(encode("hello"), 8))
REFUSED = (aiohttp.ClientError, OSError)


@pytest.fixture
def authority():
    return Authority("CN=servers")


@pytest.fixture
def secret(tmp_path, authority):
    made = MountedSecret(tmp_path / "tls")
    made.pair(authority, "first")
    return made


@pytest.fixture
def look_often(monkeypatch):
    monkeypatch.setattr(certificates, "LOOK_S", 0.02)


class Client:
    """Of one router over TLS; `pair`: a file with its own certificate."""

    def __init__(self, router, authority, pair=None):
        self.router = router
        self.base = f"https://127.0.0.1:{router.http_port}"
        self.context = ssl.create_default_context(cadata=authority.pem)
        self._root, self._pair = authority.pem.encode(), None
        if pair is not None:
            self.context.load_cert_chain(pair)
            self._pair = pair.read_bytes()

    def session(self):
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self.context))

    async def complete(self):
        async with self.session() as session, session.post(self.base + "/v1/completions", json=HELLO) as response:
            assert response.status == 200
            return (await response.json())["choices"][0]["text"]

    async def shown(self):
        """The name in the certificate that a new HTTP connection is shown."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.router.http_port, ssl=self.context)
        name = dict(pair for (pair,) in writer.get_extra_info("peercert")["subject"])["commonName"]
        writer.close()
        assert await reader.read() == b""
        return name

    async def generate(self):
        credentials = grpc.ssl_channel_credentials(self._root, self._pair, self._pair)
        own = (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.secure_channel(f"127.0.0.1:{self.router.grpc_port}", credentials, options=own) as channel:
            request = pb.InferenceRequest(model="m", text="hello", sampling=pb.SamplingParams(max_tokens=8))
            call = rpc.InferenceStub(channel).Generate(request, timeout=60)
            return "".join([chunk.text async for chunk in call])

    async def is_refused(self):
        try:
            await self.complete()
        except REFUSED:
            pass
        else:
            return False
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.generate()
        return caught.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest_asyncio.fixture
async def make_front(make_rig):
    async def make(secret, **more):
        rig = await make_rig(tls=str(secret.path), **more)
        await rig.add(FakeWorker())
        return rig

    return make


async def test_http_and_grpc_with_tls_alone(make_front, secret, authority, look_often):
    rig = await make_front(secret)
    client = Client(rig.router, authority)
    assert await client.complete() == await client.generate() == TEXT
    async with client.session() as session:
        body = {**HELLO, "max_tokens": 200, "stream": True}
        async with session.post(client.base + "/v1/completions", json=body) as response:
            events = [line for line in (await response.text()).split("\n\n") if line.startswith("data: {")]
        text = "".join(json.loads(event[6:])["choices"][0]["text"] for event in events)
        assert text == decode(answer_of(encode("hello"), 200))
        async with session.get(client.base + "/") as response:  # a file
            assert "<html" in await response.text()
    assert await Client(rig.router, Authority()).is_refused(), "a client that trusts another authority"
    with pytest.raises(REFUSED):
        await rig.get("/health")  # http://
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.router.grpc_port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await rpc.InferenceStub(channel).Generate(pb.InferenceRequest(model="m", text="x"), timeout=60).read()
    async with rig.http.get(f"http://127.0.0.1:{rig.router.metrics_port}/ready") as response:
        assert response.status == 200, "the port of probes and metrics is as it was"


async def test_a_new_certificate_is_shown_and_streams_go_on(make_front, secret, authority, look_often):
    """Also a new authority, and a version of the files that is wrong in between."""
    rig = await make_front(secret)
    client = Client(rig.router, authority)
    assert await client.shown() == "first"
    rig.workers[0].script.pause_after = 20
    async with client.session() as session:
        body = {**HELLO, "max_tokens": 40, "stream": True, "return_token_ids": True}
        async with session.post(client.base + "/v1/completions", json=body) as stream:
            first = await stream.content.readline()
            secret.put(tls_crt=authority.pair("other")[0], tls_key=authority.pair("another")[1])
            wrong = rig.router._certificates
            await eventually(lambda: wrong._told, what="the router says that they do not belong together")
            assert await client.shown() == "first"
            assert await client.generate() == TEXT
            new = Authority("CN=new")
            secret.pair(new, "second")
            newer = Client(rig.router, new)

            async def second():
                try:
                    return await newer.shown() == "second"
                except OSError:
                    return False

            await eventually(second, what="new connections are shown the new certificate")
            assert await newer.complete() == await newer.generate() == TEXT
            assert await client.is_refused(), "who trusts the former authority alone"
            rig.workers[0].script.release.set()
            events = (first + await stream.read()).decode().split("\n\n")
    ids = [t for e in events if e.startswith("data: {") for t in json.loads(e[6:])["choices"][0]["token_ids"]]
    assert ids == answer_of(encode("hello"), 40)


async def test_clients_with_a_certificate_alone(make_front, secret, authority, tmp_path, look_often):
    """HTTP and gRPC; who may come changes with the file."""
    ours, theirs = Authority("CN=ours"), Authority("CN=theirs")
    bundle = MountedSecret(tmp_path / "clients")
    bundle.put(ca_crt=ours.pem.encode())
    rig = await make_front(secret, tls_clients=str(bundle.path / "ca.crt"))
    known = Client(rig.router, authority, ours.client(tmp_path, "known"))
    stranger = Client(rig.router, authority, theirs.client(tmp_path, "stranger"))
    assert await known.complete() == await known.generate() == TEXT
    assert await stranger.is_refused()
    assert await Client(rig.router, authority).is_refused()
    bundle.put(ca_crt=(theirs.pem + ours.pem).encode())
    await eventually(lambda: rig.router._certificates._current().clients.count(b"BEGIN") == 2)
    for client in (known, stranger):
        assert await client.complete() == await client.generate() == TEXT
    bundle.put(ca_crt=theirs.pem.encode())
    await eventually(lambda: rig.router._certificates._current().clients == theirs.pem.encode())
    assert await known.is_refused()
    assert await stranger.complete() == await stranger.generate() == TEXT


async def ended(reader):
    """The other side closes without a word."""
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


async def test_handshakes_are_bounded_in_number_and_time(make_front, secret):
    rig = await make_front(secret)
    connections = rig.router.connections
    connections._most = 2
    silent = [await asyncio.open_connection("127.0.0.1", rig.router.http_port) for _ in range(2)]
    await eventually(lambda: len(connections) == 2, what="who says nothing counts")
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.router.http_port)
    assert await ended(reader), "one too many"
    writer.close()
    for _, writer in silent:
        writer.close()
    await eventually(lambda: len(connections) == 0, what="those whose handshake failed are forgotten")


async def test_a_handshake_that_does_not_end_is_ended(make_front, secret, monkeypatch):
    monkeypatch.setattr(Connections.__init__, "__kwdefaults__", {**Connections.__init__.__kwdefaults__, "head_s": 0.1})
    rig = await make_front(secret)
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.router.http_port)
    writer.write(b"\x16\x03")  # its beginning
    assert await ended(reader)
    writer.close()
    await eventually(lambda: len(rig.router.connections) == 0)


async def test_a_request_that_comes_with_the_end_of_the_handshake(make_front, secret, authority):
    """TLS 1.3: a client need not wait for an answer to its last message."""
    rig = await make_front(secret)

    def ask():
        context = ssl.create_default_context(cadata=authority.pem)
        come, go = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(come, go, server_hostname="localhost")
        with socket.create_connection(("127.0.0.1", rig.router.http_port)) as raw:
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    raw.sendall(go.read())
                    come.write(raw.recv(1 << 16))
            tls.write(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            raw.sendall(go.read())  # both in one
            while True:
                try:
                    return tls.read(12)
                except ssl.SSLWantReadError:
                    come.write(raw.recv(1 << 16))

    for _ in range(20):
        assert await asyncio.to_thread(ask) == b"HTTP/1.1 200"


async def test_the_process_itself(secret, authority, tmp_path, free_port):
    """On its own event loop: TLS from the first connection on, and a certificate that changes."""
    worker = await FakeWorker().start()
    path = tmp_path / "m.json"
    deployment = Deployment(namespace="default", name="m", served_name="m", workers=(worker.member(),))
    path.write_text(Membership((deployment,)).to_json())
    ports = {"http": free_port(), "grpc": free_port(), "metrics": 0}
    arguments = [f"--{name}-port={port}" for name, port in ports.items()]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "argosy_router", "--host=127.0.0.1", f"--membership=file:{path}", *arguments,
        f"--tls={secret.path}",
    )  # fmt: skip
    client = Client(SimpleNamespace(http_port=ports["http"], grpc_port=ports["grpc"]), authority)

    async def shows(name):
        try:
            return await client.shown() == name
        except OSError:
            return False

    async def answers():
        async with client.session() as session, session.post(client.base + "/v1/completions", json=HELLO) as response:
            return response.status == 200

    try:
        await eventually(lambda: shows("first"))
        await eventually(answers)
        assert await client.complete() == await client.generate() == TEXT
        silent, writer = await asyncio.open_connection("127.0.0.1", ports["http"])
        writer.write(b"GET / HTTP/1.1\r\n\r\n")  # without TLS
        assert await ended(silent)
        writer.close()
        secret.pair(authority, "second")
        await eventually(lambda: shows("second"))
        assert await client.complete() == await client.generate() == TEXT
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 60) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await worker.stop()


def _mismatched(path, authority):
    shutil.copy(path / "tls.crt", path / "kept")
    (path / "tls.crt").unlink()
    (path / "tls.crt").write_bytes(authority.pair("x")[0])


def _encrypted(path, authority):
    certificate, key = authority.pair("x")
    locked = load_pem_private_key(key, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    for name, data in (("tls.crt", certificate), ("tls.key", locked)):
        (path / name).unlink()
        (path / name).write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path, _: (path / "tls.key").unlink(), "tls.key: No such file"),
        (lambda path, _: shutil.rmtree(path), "tls.crt: No such file"),
        (_mismatched, "KEY_VALUES_MISMATCH"),
        (_encrypted, "the key is encrypted"),
        (lambda path, _: os.truncate(path / "tls.crt", 0), "PEM"),
        (lambda path, _: os.truncate(path / "tls.crt", 2 << 20), "tls.crt has more than"),
    ],
)
async def test_files_that_are_wrong_end_the_start_with_their_name(secret, authority, spoil, says):
    spoil(secret.path, authority)
    with pytest.raises(InvalidArgumentError) as caught:
        await Certificates("--tls", str(secret.path)).load()
    assert caught.value.field == "--tls"
    assert says in str(caught.value)


async def test_an_authority_that_is_none_ends_the_start(secret, tmp_path):
    (tmp_path / "ca.crt").write_text("ü")
    with pytest.raises(InvalidArgumentError, match="--tls"):
        await Certificates("--tls", str(secret.path), str(tmp_path / "ca.crt")).load()


@pytest.mark.parametrize(
    "arguments",
    [["--tls-clients=x"], ["--picker-tls-clients=x"], ["--picker-tls=x"]],
)
def test_half_of_what_is_needed_is_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        settings.parse(["--membership=file:x", *arguments], {})
    assert "needs" in capsys.readouterr().err
