"""State folders, ports and child processes."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
from waiting import eventually

from argosy_cli.embedded import machine, ports, run
from argosy_cli.embedded.process import Command, Process, describe_exit, tail
from argosy_cli.embedded.states import ProcessState, ResourceState, RunState
from argosy_cli.errors import PortTakenError, StartError


def state(name="r"):
    replica = ProcessState(name="p", phase="Loading", progress=0.5, restarts=2, pid=7, address="a:1", log="l")
    resource = ResourceState(namespace="n", name="m", served_name="s", uri="sim://m", replicas=[replica])
    services = [ProcessState(name="router", phase="Ready")]
    return RunState(
        run=name, pid=1, started=2.5, http="h:1", grpc="h:2", metrics="h:3", services=services, resources=[resource]
    )


def test_state_survives_its_file():
    assert RunState.from_json(state().to_json()) == state()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"services": [], "resources": []}', state().to_json()[:-5]])
def test_what_is_no_state_is_refused(text):
    with pytest.raises(ValueError, match="not the state of a run"):
        RunState.from_json(text)


def test_a_run_is_live_as_long_as_its_lock(tmp_path):
    folder = run.create(tmp_path)
    assert run.live(tmp_path) == []  # it has not said anything yet
    run.write(folder.state, state().to_json())
    assert run.live(tmp_path) == [state()]
    folder.lock.close()
    assert run.live(tmp_path) == []


def test_only_the_folders_of_the_last_runs_are_kept(tmp_path):
    living = run.create(tmp_path)
    for i in range(run.KEPT_RUNS + 3):
        old = tmp_path / f"20000101-00000{i}-1"
        old.mkdir()
        (old / "lock").touch()
    (tmp_path / "not-ours").mkdir()
    run.create(tmp_path / "elsewhere").lock.close()
    run._prune(tmp_path)
    names = sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("20"))
    assert names[:-1] == [f"20000101-00000{i}-1" for i in range(3, 8)]
    assert names[-1] == living.path.name
    assert (tmp_path / "not-ours").is_dir()


def test_a_state_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match="ARGOSY_HOME"):
        run.create(tmp_path / "file" / "below")


def test_taken_and_doubled_ports_are_refused_by_the_options_name():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert not ports.is_free("127.0.0.1", port)
        with pytest.raises(PortTakenError, match=f"port {port} on 127.0.0.1 is taken .* with --grpc-port"):
            ports.require_free("127.0.0.1", {"--http-port": ports.free_port(), "--grpc-port": port})
    free = ports.free_port()
    with pytest.raises(PortTakenError, match="--a and --b are both"):
        ports.require_free("127.0.0.1", {"--a": free, "--b": free})


def test_free_ports_are_free_and_differ():
    seen = set()
    for _ in range(50):
        port = ports.free_port(seen)
        assert port not in seen
        assert ports.is_free("127.0.0.1", port)
        seen.add(port)


@pytest.mark.parametrize(("cores", "workers", "threads"), [(2, 2, 1), (2, 1, 2), (8, 3, 2), (1, 5, 1), (4, 0, 4)])
def test_threads_are_a_fair_share(cores, workers, threads):
    assert machine.threads_per_worker(cores, workers) == threads


def test_this_machine_has_cores():
    assert 1 <= machine.detect().cores <= os.cpu_count()


def command(tmp_path, code):
    return Command(argv=(sys.executable, "-c", code), env=dict(os.environ), log=tmp_path / "log", cwd=tmp_path)


async def test_a_child_has_its_log_environment_and_exit_code(tmp_path):
    process = await Process.start(
        command(tmp_path, "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    )
    assert await process.wait() == 3
    assert sorted(tail(tmp_path / "log")) == ["err", "out"]


async def test_a_child_that_ignores_sigterm_is_killed(tmp_path):
    process = await Process.start(
        command(
            tmp_path, "import signal, time; signal.signal(15, signal.SIG_IGN); print('set', flush=True); time.sleep(60)"
        )
    )
    await eventually(lambda: tail(tmp_path / "log") == ["set"])
    assert await process.end(0.1) == -signal.SIGKILL
    assert not process.alive


async def test_a_program_that_is_not_there(tmp_path):
    process = await Process.start(Command(argv=("/no/such/program",), env={}, log=tmp_path / "log", cwd=tmp_path))
    assert await process.wait() == 1
    assert "No such file" in tail(tmp_path / "log", 1)[0]


def test_children_die_with_a_supervisor_that_was_killed(tmp_path):
    script = (
        "import asyncio, os, sys\n"
        "from pathlib import Path\n"
        "from argosy_cli.embedded.process import Command, Process\n"
        "async def main():\n"
        "    c = Command(argv=('sleep', '60'), env=dict(os.environ), log=Path('log'), cwd=Path.cwd())\n"
        "    p = await Process.start(c)\n"
        "    print(p.pid, flush=True)\n"
        "    await p.wait()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        deadline = time.monotonic() + 10
        while child.name() != "sleep" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert child.name() == "sleep"
        parent.kill()
        parent.wait()
    child.wait(timeout=10)
    assert not child.is_running()


def test_exits_in_words():
    assert describe_exit(3) == "exit code 3"
    assert describe_exit(-9) == "killed by SIGKILL"
    assert describe_exit(-200) == "killed by signal 200"


def test_a_large_log_starts_anew(tmp_path, monkeypatch):
    from argosy_cli.embedded import process

    monkeypatch.setattr(process, "_MAX_LOG_BYTES", 10)
    (tmp_path / "log").write_text("0123456789abc")
    asyncio.run(_run(command(tmp_path, "print('new')")))
    assert tail(tmp_path / "log") == ["new"]
    assert (tmp_path / "log.1").read_text() == "0123456789abc"


async def _run(what):
    await (await Process.start(what)).wait()
