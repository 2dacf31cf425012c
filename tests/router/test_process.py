"""The router as a process: its ports, its exit codes, its end."""

import asyncio
import json
import os
import signal
import socket
import sys

import aiohttp
import pytest
from router_kit import FakeWorker, answer_of, encode
from waiting import eventually

from argosy_api.membership import Deployment, Membership
from argosy_router import settings


async def spawn(*arguments, env=None):
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "argosy_router", "--host", "127.0.0.1", *arguments,
        stderr=asyncio.subprocess.PIPE, env={**os.environ, **(env or {})},
    )  # fmt: skip


@pytest.mark.parametrize("which", ["http", "grpc", "metrics"])
async def test_a_taken_port_is_a_clear_error(tmp_path, which):
    """Exit code 78 and one line that names the port; no traceback."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as another gRPC server has it
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ports = {"http": 0, "grpc": 0, "metrics": 0, which: port}
        process = await spawn("--membership", f"file:{tmp_path}/m.json", *(f"--{k}-port={v}" for k, v in ports.items()))
        _, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 78
    assert str(port) in err.decode()
    assert "Traceback" not in err.decode()


async def test_a_wrong_redis_url_is_a_clear_error_and_never_shown(tmp_path):
    """A slash in a password makes what stands before it a port."""
    process = await spawn("--membership", f"file:{tmp_path}/m.json", env={"ARGOSY_REDIS_URL": "redis://:pass/word@h:1"})
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 78
    assert "ARGOSY_REDIS_URL: has a port" in err.decode()
    assert "pass" not in err.decode()


@pytest.mark.parametrize("loopback", ["127.0.0.1", "::1"])
async def test_all_servers_listen_on_both_families(make_rig, loopback, has_ipv6):
    if loopback == "::1" and not has_ipv6:
        pytest.skip("no IPv6 here")
    router = (await make_rig(host="::")).router
    for port in (router.http_port, router.grpc_port, router.metrics_port):
        _, writer = await asyncio.open_connection(loopback, port)
        writer.close()


async def test_an_address_of_another_machine_is_not_called_a_taken_port(tmp_path):
    elsewhere = "192.0.2.1"  # of a range that is for documentation
    process = await spawn("--membership", f"file:{tmp_path}/m.json", f"--host={elsewhere}")
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 78
    assert elsewhere in err.decode()
    assert "taken" not in err.decode()
    assert "in use" not in err.decode()


async def test_sigterm_lets_streams_finish(tmp_path, free_port):
    """A stream that runs when SIGTERM comes ends whole; new requests are refused; exit code 0."""
    worker = await FakeWorker().start()
    worker.script.step_s = 0.02
    path = tmp_path / "m.json"
    path.write_text(
        Membership((Deployment(namespace="default", name="m", served_name="m", workers=(worker.member(),)),)).to_json()
    )
    port = free_port()
    process = await spawn("--membership", f"file:{path}", f"--http-port={port}", "--grpc-port=0", "--metrics-port=0")
    base = f"http://127.0.0.1:{port}"
    request = {"model": "m", "prompt": "hello", "max_tokens": 60, "return_token_ids": True, "stream": True}
    try:
        async with aiohttp.ClientSession() as session:

            async def serves():
                try:
                    async with session.get(base + "/v1/models/m") as response:
                        return "max_model_len" in await response.json()
                except aiohttp.ClientError:
                    return False

            await eventually(serves)
            async with session.post(base + "/v1/completions", json=request) as response:
                assert response.status == 200
                line = await response.content.readline()
                process.send_signal(signal.SIGTERM)
                body = line + await response.read()
        assert body.endswith(b"data: [DONE]\n\n")
        events = [json.loads(part[6:]) for part in body.decode().split("\n\n") if part.startswith("data: {")]
        assert [t for e in events for t in e["choices"][0]["token_ids"]] == answer_of(encode("hello"), 60)
        await asyncio.wait_for(process.wait(), 60)
        assert process.returncode == 0
    finally:
        if process.returncode is None:
            process.kill()
        await worker.stop()


BAD_SETTINGS = [
    [], ["--membership", "redis:x"], ["--membership", "file:"], ["--membership=file:x", "--http-port=99999"],
    ["--membership=file:x", "--http-port=-1"], ["--membership=file:x", "--http-port=x"],
    ["--membership=file:x", "--drain-seconds=nan"], ["--membership=file:x", "--drain-seconds=-1"],
    ["--membership=file:x", "--attempts=0"], ["--membership=file:x", "--what"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", BAD_SETTINGS, ids=" ".join)
def test_bad_settings(arguments, capsys):
    """argparse's own message and exit code."""
    with pytest.raises(SystemExit) as caught:
        settings.parse(arguments, {})
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_settings():
    """Defaults as users of Triton know them; the Redis URL comes from the environment."""
    chosen = settings.parse(["--membership", "file:/x"], {"ARGOSY_REDIS_URL": "redis://r"})
    assert (chosen.http_port, chosen.grpc_port, chosen.metrics_port) == (8000, 8001, 8002)
    assert (chosen.redis_url, chosen.membership, chosen.drain_seconds) == ("redis://r", "file:/x", 30.0)
    assert settings.parse(["--membership", "file:/x"], {"ARGOSY_REDIS_URL": ""}).redis_url is None
