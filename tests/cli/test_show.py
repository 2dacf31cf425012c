"""What a run tells the user, and when it says nothing."""

import io
from copy import deepcopy

import pytest
from rich.console import Console

from argosy_cli.embedded.show import Lines, PlainDisplay, TerminalDisplay, describe, table
from argosy_cli.embedded.states import ProcessState, ResourceState, RunState


def fresh(replicas=1):
    names = [f"m-{i}" for i in range(replicas)]
    return RunState(
        run="r", pid=1, started=0.0, http="h:8000", grpc="h:8001", metrics="h:8002",
        services=[ProcessState(name="valkey"), ProcessState(name="router")],
        resources=[
            ResourceState(
                namespace="default", name="m", served_name="served", uri="sim://m", replicas=[ProcessState(name=n) for n in names]
            )
        ],
    )  # fmt: skip


@pytest.fixture
def told():
    said = []
    lines = Lines(said.append)

    def update(state):
        said.clear()
        lines.update(deepcopy(state))
        return list(said)

    return update


def test_a_start_is_told_step_by_step_and_the_endpoints_once(told):
    state = fresh(2)
    first, second = state.resources[0].replicas
    assert told(state) == []
    first.phase, first.progress, first.message = "Downloading", 0.1, "10 of 100 MB"
    assert told(state) == ["m: replica m-0: Downloading 10%: 10 of 100 MB"]
    first.progress, first.message = 0.2, "20 of 100 MB"
    assert told(state) == []
    first.progress, first.message = 0.4, "40 of 100 MB"
    assert told(state) == ["m: replica m-0: Downloading 40%: 40 of 100 MB"]
    state.services[1].phase = "Ready"
    first.phase, first.message, first.address = "Ready", "", "127.0.0.1:5"
    assert told(state) == ["router: Ready", "m: replica m-0: Ready at 127.0.0.1:5", "m: 1 of 2 replicas ready"]
    second.phase = "Connecting"
    assert told(state) == []
    second.phase = "Ready"
    lines = told(state)
    assert lines[:2] == ["m: replica m-1: Ready", "m: 2 of 2 replicas ready"]
    assert any("http://h:8000/v1" in line for line in lines)
    assert any('"model": "served"' in line for line in lines)
    assert told(state) == []


def test_endpoints_are_shown_even_if_one_replica_failed(told):
    state = fresh(2)
    first, second = state.resources[0].replicas
    state.services[1].phase = first.phase = "Ready"
    assert not any("Try it" in line for line in told(state))
    second.phase, second.reason, second.message, second.retry_s = "Failed", "ModelInvalid", "truncated", 10.0
    lines = told(state)
    assert "m: replica m-1: ModelLoaded=False ModelInvalid: truncated; next start in 10 s" in lines
    assert any("Try it" in line for line in lines)


def test_a_crash_comes_with_the_last_lines_of_its_log(told, tmp_path):
    log = tmp_path / "log"
    log.write_text("one\n\ntwo\n")
    state = fresh()
    replica = state.resources[0].replicas[0]
    told(state)
    replica.phase, replica.reason, replica.message, replica.log = "Failed", "Crashed", "exit code 1", str(log)
    assert told(state)[1:] == ["    | one", "    | two"]


def test_nobody_counts_on_the_way_out(told):
    state = fresh()
    replica = state.resources[0].replicas[0]
    replica.phase = "Ready"
    told(state)
    replica.phase = "Stopping"
    assert told(state) == ["m: replica m-0: Stopping"]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"phase": "Starting"}, "Starting"),
        ({"phase": "Loading", "progress": 0.5, "message": "weights"}, "Loading 50%: weights"),
        ({"phase": "NotReady", "reason": "Unresponsive"}, "NotReady (Unresponsive)"),
        (
            {"phase": "Failed", "reason": "Crashed", "message": "killed by SIGKILL", "retry_s": 0.2},
            "Failed (Crashed): killed by SIGKILL; next start in 0.2 s",
        ),
        ({"phase": "Failed", "reason": "ModelInvalid", "message": "cut"}, "ModelLoaded=False ModelInvalid: cut"),
    ],
)
def test_a_process_in_words(fields, text):
    assert describe(ProcessState(name="p", **fields)) == text


def test_the_table_shows_every_process():
    out = io.StringIO()
    Console(file=out, width=120).print(table(fresh(2)))
    assert [line.split()[0] for line in out.getvalue().splitlines()] == ["RESOURCE", "valkey", "router", "m", "m"]


@pytest.mark.parametrize(("width", "columns"), [(160, 5), (100, 3), (60, 3), (40, 3)])
def test_a_narrow_terminal_keeps_what_matters(width, columns):
    state = fresh(2)
    for i, replica in enumerate(state.resources[0].replicas):
        replica.name = f"smollm2-worker-sgdlsmgmk-sdkb{i}"
        replica.phase, replica.progress = "Loading", 0.5
    out = io.StringIO()
    Console(file=out, width=width).print(table(state, width))
    head, *lines = out.getvalue().splitlines()
    assert len(head.split()) == columns
    assert len(lines) == 4  # none is broken over several
    assert all(len(line) <= width for line in (head, *lines))
    assert [line.split()[1][-5:] for line in lines[2:]] == ["sdkb0", "sdkb1"]
    assert all("Loading 50%" in line for line in lines[2:])


def test_both_displays_say_the_same():
    plain, out = [], io.StringIO()
    state = fresh()
    state.resources[0].replicas[0].phase = "Ready"
    PlainDisplay(plain.append).update(state)
    with TerminalDisplay(Console(file=out, force_terminal=True, width=120)) as display:
        display.update(state)
    assert plain != []
    assert all(line in out.getvalue() for line in plain)
