"""`argosy top`: figures from what routers tell, tables for any terminal, of this machine and of a cluster."""

import http.client
import io
import json
import subprocess
import sys
from contextlib import contextmanager

import pytest
from rich.console import Console

from argosy_api.resource import API_VERSION
from argosy_api.routes import Demand, DeploymentRoutes, Routes, RouteState, WorkerLoad, WorkerRoute
from argosy_cli.cluster.command import Where
from argosy_cli.embedded import states
from argosy_cli.embedded.states import ProcessState, ResourceState
from argosy_cli.errors import CommandError
from argosy_cli.top import sources
from argosy_cli.top.command import Watched, Wish, _show
from argosy_cli.top.figures import Deployment, Row, Watch
from argosy_cli.top.show import COLUMNS, Screen, document, table
from argosy_cli.top.sources import Look, There
from argosy_kube.access import Access
from argosy_operator.autoscaling.signals import Told

M = Deployment(namespace="team", name="m", ready=1, desired=2, reason="Loading")


def load(**fields) -> WorkerLoad:
    usual = {"age_s": 0.5, "requests": 3, "queue_s": 1.5, "kv_used": 0.25, "prefill_rate": 100.0, "itl_s": 0.0}
    return WorkerLoad(**{**usual, "waiting": 1, **fields})


def said(*loads: WorkerLoad, **demand) -> DeploymentRoutes:
    workers = tuple(
        WorkerRoute(worker_id=f"w{i}", revision="r", state=RouteState.READY, indexed_blocks=0, load=one)
        for i, one in enumerate(loads)
    )
    return DeploymentRoutes(
        namespace="team", name="m", served_name="m", policy="kvAware", workers=workers, demand=Demand(**demand)
    )


def looked(watch: Watch, at: float, *answers: DeploymentRoutes) -> Row:
    return watch.row(M, Told(at, len(answers), list(answers)), at)


# --- figures


def test_workers_are_added_up_and_each_is_counted_once():
    """Two routers have the same two workers: the newer report of each counts, and what both hold is added."""
    first = said(load(age_s=0.5), load(age_s=2.0, requests=9), held=1)
    second = said(load(age_s=1.5, requests=9), load(age_s=0.1, requests=1, waiting=0, kv_used=0.75), held=2)
    row = looked(Watch(), 100.0, first, second)
    assert (row.running, row.waiting, row.held, row.queue_s, row.kv_used) == (3, 1, 3, 3.0, 0.5)
    assert (row.ready, row.desired, row.reason) == (1, 2, "Loading")
    assert (row.generated_rate, row.hit_rate) == (None, None)  # of one look nothing can be said


def test_rates_are_by_the_time_between_reports_not_between_looks():
    watch = Watch()
    looked(watch, 100.0, said(load(age_s=0.9, generated_tokens=1000, prompt_tokens=50, cached_tokens=50)))
    row = looked(watch, 102.0, said(load(age_s=0.4, generated_tokens=1250, prompt_tokens=150, cached_tokens=75)))
    assert row.generated_rate == pytest.approx(250 / 2.5)
    assert row.prompt_rate == pytest.approx(100 / 2.5)
    assert row.hit_rate == 0.25


def test_the_same_report_twice_is_no_time_in_which_nothing_happened():
    watch = Watch()
    looked(watch, 100.0, said(load(age_s=0.1, generated_tokens=0)))
    before = looked(watch, 102.0, said(load(age_s=0.1, generated_tokens=100)))
    after = looked(watch, 102.5, said(load(age_s=0.6, generated_tokens=100)))
    assert before.generated_rate == after.generated_rate == pytest.approx(50)


def test_the_hit_rate_is_of_the_last_minute():
    watch = Watch()
    for second in range(200):
        old = min(second, 100)
        row = looked(watch, second, said(load(prompt_tokens=10 * second, cached_tokens=10 * old)))
    assert row.hit_rate == 0.0
    assert row.prompt_rate == pytest.approx(10)


def test_a_worker_that_began_anew_and_one_that_went():
    watch = Watch()
    looked(watch, 100.0, said(load(generated_tokens=500), load(generated_tokens=500)))
    assert looked(watch, 102.0, said(load(generated_tokens=5))).generated_rate is None
    assert looked(watch, 104.0, said(load(generated_tokens=25))).generated_rate == pytest.approx(10)


def test_where_nobody_tells_nothing_is_known_and_where_nobody_works_it_is_zero():
    silent = Watch().row(M, None, 1.0)
    assert (silent.queue_s, silent.running, silent.generated_rate) == (None, None, None)
    assert (silent.ready, silent.desired) == (1, 2)
    idle = looked(Watch(), 1.0, said())
    assert (idle.queue_s, idle.running, idle.generated_rate, idle.kv_used) == (0, 0, 0, None)
    unheard = Watch().row(M, Told(1.0, 1, [None]), 1.0)
    assert unheard == silent


# --- the table


def rows(*names: str) -> list[Row]:
    figures = {"queue_s": 1.25, "running": 3, "waiting": 12, "held": 0, "hit_rate": 0.5, "generated_rate": 250.4}
    figures |= {"prompt_rate": 3.2, "kv_used": 0.07, "ttft_s": 0.054, "itl_s": 1.5}
    return [Row(namespace="team", name=n, ready=1, desired=2, reason="ModelNotFound", **figures) for n in names]


def test_all_columns_where_there_is_room():
    head, line = table(rows("m"))
    assert head.split() == [column.title for column in COLUMNS]
    assert line.split() == [
        "m",
        "1/2",
        "1.2s",
        "3",
        "12",
        "0",
        "50%",
        "250",
        "3.2",
        "7%",
        "54ms",
        "1.5s",
        "ModelNotFound",
    ]


def test_several_namespaces_are_told_apart():
    one = Row(namespace="a", name="m", ready=0, desired=1)
    assert table([one, *rows("m")])[0].split()[0] == "NAMESPACE"
    assert table([one])[0].split()[0] == "NAME"
    assert table([one], namespaces=True)[1].split() == ["a", "m", "0/1", *["-"] * 10]


@pytest.mark.parametrize("width", range(10, 140))
def test_no_line_is_wider_than_the_terminal(width):
    lines = table(rows("m", "a-rather-long-name-of-a-deployment"), width=width)
    assert max(map(len, lines)) <= width
    titles = lines[0].split()
    if width >= 40:  # what tells most is there as long as it can be
        assert titles[:5] == ["NAME", "READY", "QUEUE", "WAIT", "TOK/S"] or titles[3:4] == ["RUN"]
    if width >= 44:
        assert lines[1].split()[:3] == ["m", "1/2", "1.2s"]
        assert lines[2].startswith("a-rather-lon")


def test_names_get_the_room_that_is_left():
    name = "a-rather-long-name-of-a-deployment"
    assert name in table(rows(name), width=120)[1]
    assert "…" in table(rows(name), width=60)[1]


def test_a_screen_ends_where_the_terminal_ends():
    out = io.StringIO()
    console = Console(file=out, width=60, height=6)
    console.print(Screen(rows(*"abcdefgh"), ["1 of 2 routers in argosy-system answer: " + "x" * 90]))
    lines = out.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", "a", "b", "c", "and", "1"]
    assert max(map(len, lines)) <= 60


def test_programs_get_units_in_the_names_and_null_for_the_unknown():
    found = document([Row(namespace="n", name="m", ready=0, desired=1)], ["why"])
    assert found["notes"] == ["why"]
    assert set(found["items"][0]) == {
        "namespace", "name", "ready", "desired", "reason", "queueSeconds", "running", "waiting", "held", "hitRate",
        "generatedTokensPerSecond", "promptTokensPerSecond", "kvUsed", "ttftSeconds", "itlSeconds",
    }  # fmt: skip
    assert found["items"][0]["queueSeconds"] is None


# --- looking again and again


class Scripted:
    def __init__(self, *looks) -> None:
        self.looks = list(looks)

    async def look(self):
        answer = self.looks.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_an_outage_leaves_the_last_table_and_says_so():
    watched = Watched(Scripted(Look([M]), CommandError("gone"), Look([M])))
    first, _ = await watched.look()
    again, notes = await watched.look_again()
    assert again == first
    assert notes == ["as it was 0s ago: gone"]
    assert (await watched.look_again())[1] == ()


async def test_the_first_look_must_succeed_and_a_name_must_be_there():
    with pytest.raises(CommandError, match="gone"):
        await Watched(Scripted(CommandError("gone"))).look()
    with pytest.raises(CommandError, match="no InferenceDeployment x there; there are: m"):
        await Watched(Scripted(Look([M])), "x").look()


async def test_what_is_no_terminal_gets_one_plain_table(capsys):
    console = Console(file=io.StringIO(), width=20)
    await _show(
        Scripted(Look([M], {}, ["no router is ready in x"]), Look([M], {}, ["still none"])),
        console,
        Wish(interval_s=0),
        None,
    )
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["NAME", "m"]
    assert "\x1b" not in out
    assert out.splitlines()[0].split() == [column.title for column in COLUMNS]
    assert err == "still none\n"


# --- a cluster


def infd(name: str, **status) -> dict:
    return {"metadata": {"namespace": "team", "name": name}, "spec": {"replicas": 3}, "status": status}


def router(name: str, *, ready: bool = True) -> dict:
    return {
        "metadata": {"name": name},
        "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 8000}, {"name": "metrics", "containerPort": 9}]}]},
        "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }  # fmt: skip


LIST = f"/apis/{API_VERSION}/namespaces/team/inferencedeployments"
PODS = "/api/v1/namespaces/sys/pods"
ENDPOINT = {"endpoint": "argosy-router.sys.svc:8001"}


async def look(serve, answers: dict, **where) -> Look:
    port = await serve(answers.get)
    async with There(Access(server=f"http://127.0.0.1:{port}", namespace="team"), Where(**where)) as there:
        return await there.look()


async def test_routers_are_found_by_the_endpoint_and_asked_through_the_api_server(serve):
    answers = {
        LIST: {"items": [infd("m", ready="1/2", reason="Loading", **ENDPOINT), infd("new")]},
        PODS: {"items": [router("r-0"), router("r-1"), router("r-2", ready=False)]},
        f"{PODS}/r-0:9/proxy/routes": json.loads(Routes((said(load()),)).to_json()),
    }
    found = await look(serve, answers)
    assert [(d.name, d.ready, d.desired, d.reason) for d in found.deployments] == [
        ("m", 1, 2, "Loading"), ("new", 0, 3, ""),
    ]  # fmt: skip
    assert found.told.keys() == {("team", "m")}
    assert found.told["team", "m"].answers == [said(load())]
    [note] = found.notes
    assert note.startswith("1 of 2 routers in sys answer: status 404")


@pytest.mark.parametrize(
    ("answers", "note"),
    [
        ({PODS: {"items": [router("r", ready=False)]}}, "no router is ready in sys"),
        ({}, "the routers in sys cannot be asked: status 404"),
    ],
)
async def test_without_routers_there_are_still_the_replicas(serve, answers, note):
    found = await look(serve, {LIST: {"items": [infd("m", ready="2/2", **ENDPOINT)]}} | answers)
    assert [(d.ready, d.desired) for d in found.deployments] == [(2, 2)]
    assert [text.startswith(note) for text in found.notes] == [True]


async def test_nothing_to_show_is_said(serve):
    with pytest.raises(CommandError, match="no InferenceDeployment in namespace team"):
        await look(serve, {LIST: {"items": []}})
    with pytest.raises(CommandError, match="no InferenceDeployment in this cluster"):
        await look(serve, {f"/apis/{API_VERSION}/inferencedeployments": {"items": []}}, everywhere=True)
    with pytest.raises(CommandError, match="is Argosy installed"):
        await look(serve, {})


# --- this machine, and as a plug-in


def test_replicas_of_this_machine():
    loading = ProcessState(name="m-1", phase="Downloading")
    item = ResourceState(namespace="default", name="m", served_name="m", uri="sim://m", replicas=[loading])
    assert sources._local(item) == Deployment(namespace="default", name="m", ready=0, desired=1, reason="Downloading")
    loading.phase = states.READY
    assert sources._local(item).reason == "Ready"


async def test_where_nothing_runs_that_is_said(tmp_path):
    with pytest.raises(CommandError, match=r"nothing runs here .* ask a cluster: -A"):
        await sources.Here(tmp_path).look()


def test_top_of_a_run(up):
    """Streams that go on are seen: their number, and how fast they are."""
    one = up(
        "apiVersion: serving.argosy.dev/v1alpha1\nkind: InferenceDeployment\nmetadata: {name: m}\n"
        "spec: {model: {uri: 'sim://m?decode_ms=20'}, replicas: 2}\n"
    )
    one.until_ready()
    with streams(one, 3):
        code, out, err = one.command("top", "--interval=2", "-o", "json")
        assert (code, err) == (0, "")
        [item] = json.loads(out)["items"]
        assert (item["ready"], item["desired"], item["reason"]) == (2, 2, "Ready")
        assert item["running"] == 3
        assert item["generatedTokensPerSecond"] > 0
        assert 0 < item["kvUsed"] < 1
        code, out, _ = one.command("top", "m")
        assert [line.split()[0] for line in out.splitlines()] == ["NAME", "m"]
    assert "there are: m" in one.command("top", "x")[2]


@contextmanager
def streams(one, count: int):
    """Requests that generate until the end of the block, and have begun at its start."""
    body = json.dumps({"model": "m", "prompt": "on and on", "max_tokens": 4000, "stream": True, "ignore_eos": True})
    open_ = []
    for _ in range(count):
        connection = http.client.HTTPConnection("127.0.0.1", one.http_port, timeout=60)
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        open_.append((connection, connection.getresponse()))
    for _, answer in open_:
        assert answer.status == 200
        answer.readline()
    try:
        yield
    finally:
        for connection, _ in open_:
            connection.close()


def test_kubectl_finds_it_as_its_plug_in(tmp_path):
    """By the name alone it asks a cluster, also without an option that names one."""
    plugin = tmp_path / "kubectl-argosy"
    plugin.write_text(f"#!{sys.executable}\nfrom argosy_cli.main import main\nmain()\n")
    plugin.chmod(0o755)
    for command in ("top", "status"):
        done = subprocess.run(
            [plugin, command], capture_output=True, text=True, check=False,
            env={"PATH": "", "HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path), "ARGOSY_HOME": str(tmp_path)},
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr == "error: KUBECONFIG: is not set, and this is not a pod with a service account\n"
