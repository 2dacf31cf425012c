"""A Redis behind TLS with an authority of one's own: the URLs that the chart makes are enough to log in with."""

import asyncio
import shutil
import ssl
import subprocess

import pytest
import redis.asyncio as redis
import yaml
from redis.exceptions import ConnectionError as RedisConnectionError

from argosy_operator.redis_access import check_url, password_of, worker_url
from argosy_operator.redis_users import RedisUsers

ADMIN = "hunter2"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Paths of a certificate for 127.0.0.1 that signs itself, and of its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("LEFT OUT: there is no openssl, so no certificate to test with")
    folder = tmp_path_factory.mktemp("tls")
    paths = folder / "certificate.pem", folder / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(paths[0]), "-keyout", str(paths[1])]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return paths


async def forward(reader, writer):
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


@pytest.mark.asyncio
async def test_operator_routers_and_workers_trust_the_authority(helm, chart, certificate, valkey_factory, tmp_path):
    valkey = valkey_factory(ADMIN).start()

    async def serve(reader, writer):
        inner = await asyncio.open_connection("127.0.0.1", valkey.port)
        await asyncio.gather(forward(reader, inner[1]), forward(inner[0], writer), return_exceptions=True)

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    plain = f"rediss://:{ADMIN}@127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    values = tmp_path / "values.yaml"
    own = {"url": plain, "ca": certificate[0].read_text()}
    values.write_text(yaml.safe_dump({"valkey": {"enabled": False}, "redis": own}))
    done = await asyncio.to_thread(
        helm, "template", "argosy", str(chart), "--kube-version", "1.34", "--values", str(values),
        "--show-only", "templates/valkey/secret.yaml",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = yaml.safe_load(done.stdout)["stringData"]
    admin, router = check_url(made["url"], "URL"), check_url(made["router-url"], "URL")
    assert password_of(admin) == ADMIN
    users = RedisUsers(admin, router, "perNamespace", namespaces=lambda: {"team-a"}, report=lambda up: None)
    keeping = asyncio.create_task(users.run())
    try:
        for url in (admin, router, worker_url(admin, "perNamespace", "team-a")):
            async with redis.Redis.from_url(url) as client, asyncio.timeout(30):
                while not await logged_in(client):
                    await asyncio.sleep(0.05)
        async with redis.Redis.from_url(plain) as stranger:
            with pytest.raises(RedisConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
                await stranger.ping()
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        server.close()


async def logged_in(client):
    """Whether the user is there already, whom the operator makes."""
    try:
        return await client.ping()
    except redis.AuthenticationError:
        return False
