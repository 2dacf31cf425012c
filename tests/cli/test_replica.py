"""One replica: its ports, what it tells the router, and the verdict on its end."""

import json

import pytest

from argosy_api.process import Termination
from argosy_api.resource import ModelSpec
from argosy_api.worker_spec import WorkerSpec, with_threads
from argosy_api.worker_status import Phase, WorkerStatus
from argosy_cli.embedded import pods
from argosy_cli.embedded.keeper import Kind
from argosy_cli.embedded.replica import Replica, Surroundings, read_termination
from argosy_cli.embedded.states import ProcessState

SPEC = WorkerSpec(model=ModelSpec(uri="sim://m", served_name="m"))
DEPLOYMENT = {
    "metadata": {"name": "m-worker", "namespace": "team"},
    "spec": {
        "replicas": 1,
        "template": {
            "metadata": {"labels": {"serving.argosy.dev/revision": "r1"}},
            "spec": {
                "containers": [
                    {
                        "name": "worker",
                        "command": ["python", "-m", "argosy_worker"],
                        "args": [SPEC.argument()],
                        "env": [{"name": "ARGOSY_GRPC_PORT", "value": "9000"}],
                    }
                ]
            },
        },
    },
}


@pytest.fixture
def replica(tmp_path):
    around = Surroundings(
        folder=tmp_path,
        python="/bin/python",
        environment={"PATH": "/bin", "ARGOSY_LEFT": "over"},
        overrides={"ARGOSY_REDIS_URL": "redis://here"},
        secret=lambda *_: "",
        threads=3,
        taken=set(),
    )
    changes = []
    state = ProcessState(name="m-0")
    made = Replica(pods.pods(DEPLOYMENT)[0], state, around, gpu="1", changed=lambda: changes.append(state.phase))
    made.changes, made.around = changes, around
    return made


def termination(replica, text):
    path = replica.command().env["ARGOSY_TERMINATION_LOG"]
    with open(path, "w") as file:
        file.write(text)


def test_command_and_environment(replica):
    command = replica.command()
    assert command.argv == ("/bin/python", "-m", "argosy_worker", with_threads([SPEC.argument()], 3)[0])
    wanted = {
        "PATH": "/bin",
        "ARGOSY_REDIS_URL": "redis://here",
        "ARGOSY_HOST": "127.0.0.1",
        "CUDA_VISIBLE_DEVICES": "1",
    }
    assert {k: command.env[k] for k in wanted} == wanted
    given = {int(command.env["ARGOSY_GRPC_PORT"]), int(command.env["ARGOSY_METRICS_PORT"])}
    assert len(given) == 2
    assert 9000 not in given
    assert replica.around.taken == given


def test_the_ports_of_a_former_life_are_given_back(replica):
    for _ in range(20):
        replica.command()
    assert len(replica.around.taken) == 2


def test_the_router_is_told_of_a_worker_only_while_it_may_be_asked(replica):
    replica.command()
    assert replica.member() is None
    replica._progress(WorkerStatus(phase=Phase.LOADING, progress=0.5))
    assert replica.member() is None
    replica._healthy()
    member = replica.member()
    assert (member.worker_id, member.revision, member.serving) == (replica.pod.name, "r1", True)
    assert replica.state.phase == "Connecting"
    replica.routed()
    assert replica.state.phase == "Ready"
    assert replica.member() == member
    replica.state.phase = "Stopping"
    assert replica.member().serving is False
    replica.state.address = ""
    assert replica.member() is None


def test_a_late_word_of_the_router_or_the_worker_changes_nothing(replica):
    replica.state.phase = "Stopping"
    replica.routed()
    replica._progress(WorkerStatus(phase=Phase.DRAINING))
    assert (replica.state.phase, replica.changes) == ("Stopping", [])


@pytest.mark.parametrize(
    ("code", "said", "verdict"),
    [
        (78, '{"reason": "ModelInvalid", "message": "truncated"}', (Kind.MODEL, "ModelInvalid", "truncated")),
        (78, '{"reason": "CannotListen", "message": "9000"}', (Kind.CRASH, "CannotListen", "9000")),
        (78, "not JSON", (Kind.CRASH, "Crashed", "exit code 78")),
        (78, '{"reason": "x"}', (Kind.CRASH, "Crashed", "exit code 78")),
        (78, "[]", (Kind.CRASH, "Crashed", "exit code 78")),
        (1, '{"reason": "InternalError", "message": "m"}', (Kind.CRASH, "Crashed", "exit code 1")),
        (-9, "", (Kind.CRASH, "Crashed", "killed by SIGKILL")),
    ],
)
def test_verdicts(replica, code, said, verdict):
    termination(replica, said)
    assert replica.verdict(code) == verdict


def test_a_verdict_quotes_the_end_of_the_log(replica):
    with open(replica.state.log, "w") as log:
        log.write("first\nMemoryError: too much\n")
    assert replica.verdict(1) == (Kind.CRASH, "Crashed", "exit code 1 (MemoryError: too much)")


def test_a_termination_message_is_bounded(tmp_path):
    path = tmp_path / "t"
    path.write_text(json.dumps({"reason": "ModelInvalid", "message": "x" * 10_000}))
    assert read_termination(path) is None
    path.write_text(Termination("ModelInvalid", "x" * 10_000).to_json())
    assert read_termination(path).message.startswith("x" * 3_000)


def test_a_new_life_forgets_the_message_of_the_last(replica):
    termination(replica, '{"reason": "ModelInvalid", "message": "truncated"}')
    replica.command()
    assert replica.verdict(78)[1] == "Crashed"
