"""The picture that `argosy trace` makes of a step trace, held against the Chrome trace format, and its summary."""

import json
from collections import defaultdict
from dataclasses import replace

import pytest

from argosy_api import limits
from argosy_api.net import PageServer
from argosy_api.step_trace import TracedSlice, TracedStep, to_line
from argosy_cli import trace_events
from argosy_cli.embedded import run
from argosy_cli.embedded.states import ProcessState, ResourceState, RunState
from argosy_cli.trace import TraceError, summary, trace

PIECE = TracedSlice(
    request="a", start=0, rows=8, prompt=12, cached=0, queued_s=0.5, preemptions=0,
    draft=0, accepted=0, sampled=0, ended=False, failed=False,
)  # fmt: skip
STEP = TracedStep(
    number=1, began=1000.0, schedule_s=0.001, launch_s=0.02, update_s=0.0005, tokens=8, running=1, waiting=2,
    free=5, cached=3, used=2, preempted=0, slices=[PIECE],
)  # fmt: skip


def piece(**change):
    return replace(PIECE, **change)


def step(number, *slices, **change):
    tokens = sum(s.rows for s in slices)
    return replace(STEP, number=number, began=1000 + 0.03 * (number - 1), tokens=tokens, slices=slices, **change)


STEPS = [
    step(1, piece()),
    step(2, piece(start=8, rows=4, sampled=1), piece(request="b", cached=16, start=16, rows=3, prompt=19, sampled=1)),
    step(3, piece(start=12, rows=4, draft=3, accepted=2, sampled=3), piece(request="b", start=19, rows=1, prompt=19)),
    step(4, piece(start=0, rows=15, prompt=12, preemptions=1, sampled=1), preempted=1, waiting=0),
    step(5, piece(start=15, rows=1, preemptions=1, sampled=1, ended=True)),
    step(6, piece(request="c", rows=12, ended=True, failed=True)),
]


def check_format(document):
    """What the Trace Event Format says of the events that we use. Returns the complete events by track."""
    assert set(document) == {"traceEvents", "displayTimeUnit"}
    assert document["displayTimeUnit"] in ("ms", "ns")
    tracks, named = defaultdict(list), set()
    for event in document["traceEvents"]:
        assert isinstance(event["name"], str)
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        where = (event["pid"], event["tid"])
        if event["ph"] == "M":  # metadata: the name of a process or thread
            assert event["name"] in ("process_name", "thread_name")
            assert isinstance(event["args"]["name"], str)
            assert set(event) == {"ph", "name", "pid", "tid", "args"}
            named.add(where if event["name"] == "thread_name" else event["pid"])
            continue
        assert isinstance(event["ts"], int)
        assert event["ts"] >= 0
        if event["ph"] == "X":  # complete: a beginning and a length
            assert isinstance(event["dur"], int)
            assert event["dur"] >= 0
            assert set(event) <= {"ph", "name", "ts", "dur", "pid", "tid", "args"}
            tracks[where].append((event["ts"], event["ts"] + event["dur"], event["name"]))
        elif event["ph"] == "i":  # instant, of a thread, a process or all
            assert event["s"] in ("t", "p", "g")
        elif event["ph"] == "C":  # counter: a series for each argument
            assert all(isinstance(value, int) for value in event["args"].values())
            assert event["args"]
        else:
            pytest.fail(f"phase {event['ph']}")
    for where, spans in tracks.items():
        assert where in named
        assert where[0] in named
        open_ends = []  # events of a track lie one after the other or one in the other
        for begin, end, _ in sorted(spans, key=lambda span: (span[0], -span[1])):
            while open_ends and open_ends[-1] <= begin:
                open_ends.pop()
            assert not open_ends or end <= open_ends[-1]
            open_ends.append(end)
    return tracks


def test_the_picture_is_of_the_format_and_tells_all():
    document = json.loads(json.dumps(trace_events.document({"w-0": STEPS, "w-1": STEPS[:1], "idle": []})))
    tracks = check_format(document)
    assert [name for _, _, name in tracks[1, 1]] == ["step", "schedule", "launch", "update"] * 6
    assert tracks[2, 1] == [
        (0, 500_000, "waiting"),
        (500_000, 521_500, "prompt 0 to 8"),
        (530_000, 551_500, "prompt 8 to 12"),
        (560_000, 581_500, "token, 2 of 3 drafted"),
        (590_000, 611_500, "prompt 0 to 15"),
        (620_000, 641_500, "token"),
    ]
    assert tracks[4, 1] == tracks[2, 1][:2]
    instants = [(e["name"], e["ts"]) for e in document["traceEvents"] if e["ph"] == "i" and e["pid"] == 2]
    assert instants == [("was preempted", 590_000), ("ended", 641_500), ("failed", 671_500)]
    counters = {e["name"]: e["args"] for e in document["traceEvents"] if e["ph"] == "C" and e["ts"] == 530_000}
    assert counters == {
        "requests": {"running": 1, "waiting": 2},
        "KV blocks": {"used": 2, "cached": 3, "free": 5},
        "tokens of a step": {"prompt": 7, "generating": 0},
    }


def test_steps_that_follow_at_once_lie_beside_each_other():
    """Rounded to microseconds, too."""
    began, steps = 1000.0, []
    for number in range(1, 200):
        took = {"schedule_s": 1.4e-6, "launch_s": 3.3e-6, "update_s": 0.7e-6}
        steps.append(replace(STEP, number=number, began=began, slices=[piece(start=number, queued_s=0.0)], **took))
        began += sum(took.values())
    check_format(trace_events.document({"w": steps}))


def test_the_summary():
    said = "\n".join(summary("w-0", STEPS))
    assert "w-0: 6 steps in 0.17 s, busy 75%; 3 requests, 39 prompt tokens computed, 7 generated" in said
    assert "a step takes 21.50 ms (longest 21.50): schedule 4.7%, launch 93.0%, update 2.3%" in said
    assert "2 in line; 1 preempted, 1 failed; 2 of 3 drafted tokens right" in said
    assert list(summary("w-1", [])) == ["w-1: no steps yet"]


def written(steps):
    return b"".join(to_line(step) + b"\n" for step in steps)


def test_from_a_worker_and_from_its_file(tmp_path):
    body = written(STEPS)
    server = PageServer("127.0.0.1", 0, lambda path: (200, "x", body) if path == "/trace" else (404, "x", b""))
    file = tmp_path / "steps.jsonl"
    file.write_bytes(written(STEPS[4:]) + body[:30])  # the worker writes to it
    file.with_name("steps.jsonl.1").write_bytes(written(STEPS[:4]))
    try:
        pictures = []
        for source in (f"127.0.0.1:{server.port}", f"http://127.0.0.1:{server.port}/", str(file)):
            out = tmp_path / "out.json"
            lines = list(trace([source], out))
            assert "6 steps" in lines[0]
            assert str(out) in lines[-1]
            events = json.loads(out.read_text())["traceEvents"]
            pictures.append([event for event in events if event["ph"] != "M"])
        assert pictures[0] == pictures[1] == pictures[2]
    finally:
        server.close()


def test_without_a_source_it_asks_the_workers_that_run_here(tmp_path, monkeypatch):
    server = PageServer("127.0.0.1", 0, lambda path: (200, "x", written(STEPS)))
    replicas = [ProcessState(name="m-0", pages=f"127.0.0.1:{server.port}"), ProcessState(name="m-1")]
    resource = ResourceState(namespace="default", name="m", served_name="m", uri="sim://m", replicas=replicas)
    state = RunState(run="r", pid=1, started=0.0, http="", grpc="", metrics="", resources=[resource])
    monkeypatch.setattr(run, "live", lambda home: [state])
    try:
        lines = list(trace([], tmp_path / "out.json"))
    finally:
        server.close()
    assert lines[0].startswith("m-0: 6 steps")
    assert not any("m-1" in line for line in lines)


def test_without_a_trace_the_reason_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("ARGOSY_HOME", str(tmp_path / "none"))
    out = tmp_path / "out.json"
    with pytest.raises(TraceError, match="no worker runs here"):
        list(trace([], out))
    server = PageServer("127.0.0.1", 0, lambda path: (404, "text/plain", b"engine.stepTrace is off\n"))
    try:
        with pytest.raises(TraceError, match="stepTrace is off"):
            list(trace([f"127.0.0.1:{server.port}"], out))
    finally:
        server.close()
    with pytest.raises(TraceError, match="no worker answers"):
        list(trace([f"127.0.0.1:{server.port}"], out))
    with pytest.raises(TraceError, match="is no file"):
        list(trace(["no such thing"], out))
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(b"{}\n")
    with pytest.raises(TraceError, match="line 1"):
        list(trace([str(bad)], out))
    bad.write_bytes(written(STEPS))
    monkeypatch.setattr(limits, "MAX_TRACE_BYTES", 100)
    with pytest.raises(TraceError, match="more than 100 bytes"):
        list(trace([str(bad)], out))
    monkeypatch.undo()
    with pytest.raises(TraceError, match="cannot be written"):
        list(trace([str(bad)], tmp_path / "nowhere" / "out.json"))
