"""What our processes tell each other: what one writes the other reads, and nonsense is read with care."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from engine_fields import companions, everything_else
from hypothesis import example, given
from hypothesis import strategies as st

from argosy_api import resource
from argosy_api.errors import InvalidArgumentError
from argosy_api.process import MAX_TERMINATION_BYTES, Termination
from argosy_api.resource import DrainSpec, EngineSpec, ModelSpec
from argosy_api.routes import DeploymentRoutes, Routes, RouteState, WorkerRoute
from argosy_api.worker_spec import WorkerSpec, with_threads
from argosy_api.worker_status import Phase, ServedModel, WorkerStatus

# --- the worker's command line


def deployment(**spec):
    document = {"model": {"uri": "hf://o/r", "tokenSecretRef": {"name": "hub"}}, **spec}
    return resource.parse(
        {"apiVersion": resource.API_VERSION, "kind": resource.KIND, "metadata": {"name": "m"}, "spec": document}
    )


def test_a_worker_is_told_all_that_the_resource_says_about_its_process():
    spec = WorkerSpec.of(deployment(engine={"threads": 2, "queueOrder": "fcfs"}, drain={"timeoutSeconds": 5}), "r1")
    read = WorkerSpec.parse(spec.argument().removeprefix("--spec="))
    assert read == spec
    assert read.model == ModelSpec(uri="hf://o/r", served_name="m")  # where the token lies is the pod's business
    assert (read.engine, read.drain) == (EngineSpec(threads=2, queue_order="fcfs"), DrainSpec(timeout_seconds=5))
    assert read.revision == "r1"


def test_every_engine_field_reaches_the_worker():
    """A new field of the resource is one edit: nothing on the way names the fields."""
    for key, value in everything_else().items():
        engine = companions(key) | {key: value}
        spec = WorkerSpec.parse(WorkerSpec.of(deployment(engine=engine), "r").argument().partition("=")[2])
        assert spec.engine.model_dump(by_alias=True, exclude_defaults=True) == engine


def test_what_equals_its_default_is_not_sent():
    """So that a worker of another version runs, as long as nothing is asked of it that it does not know."""
    argument = WorkerSpec.of(deployment(engine={"maxRunning": 64, "blockSize": 32}), "r").argument()
    assert json.loads(argument.partition("=")[2]) == {
        "model": {"uri": "hf://o/r", "servedName": "m"},
        "engine": {"blockSize": 32},
        "revision": "r",
    }


@pytest.mark.parametrize(
    ("part", "field", "words"),
    [
        ({"engine": {"fromTheFuture": True}}, "engine.fromTheFuture", "is not a field"),
        ({"engine": {"blocksize": 8}}, "engine.blocksize", "did you mean blockSize?"),
        ({"engine": {"blockSize": 12}}, "engine.blockSize", "must be 8, 16"),
        ({"engine": {"maxRunning": 64, "maxBatchTokens": 32}}, "engine.maxBatchTokens", "at least maxRunning"),
        ({"engine": {"kvCacheMemory": "much"}}, "engine.kvCacheMemory", "quantity"),
        ({"engine": {"speculative": {"method": "draft"}}}, "engine.speculative.model", "is needed"),
        ({"drain": {"timeoutSeconds": -1}}, "drain.timeoutSeconds", "greater than or equal to 0"),
        ({"model": {"uri": "sim://m"}}, "model.servedName", "is needed"),
        ({"model": {"uri": "hf://a/b@$(TOKEN)", "servedName": "m"}}, "model.uri", "no hf:// source"),
    ],
)
def test_what_a_worker_cannot_honour_is_refused_by_name(part, field, words):
    with pytest.raises(InvalidArgumentError) as caught:
        WorkerSpec.parse(json.dumps({"model": {"uri": "sim://m", "servedName": "m"}, **part}))
    assert caught.value.field == field
    assert words in caught.value.message
    assert "TOKEN" not in caught.value.message


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"model": "TOKEN'])
def test_what_is_no_spec_is_refused_and_not_repeated(text):
    with pytest.raises(InvalidArgumentError, match="worker's spec") as caught:
        WorkerSpec.parse(text)
    assert "TOKEN" not in caught.value.message


def test_a_number_of_threads_is_given_only_where_the_resource_leaves_it_open():
    def threads(spec):
        argv = with_threads(["python", "-m", "argosy_worker", spec.argument()], 3)
        assert argv[:3] == ("python", "-m", "argosy_worker")
        return WorkerSpec.parse(argv[3].partition("=")[2]).engine.threads

    model = ModelSpec(uri="sim://m", served_name="m")
    assert threads(WorkerSpec(model=model)) == 3
    assert threads(WorkerSpec(model=model, engine=EngineSpec(threads=5))) == 5


# --- a last word


@example("x" * 5000)
@example("é" * 5000)
@example("\U0001f600" * 5000)
@example('"' * 5000)
@given(st.text(max_size=200))
def test_a_last_word_is_read_back_whatever_it_says(message):
    text = Termination("ModelInvalid", message).to_json()
    assert len(text.encode()) <= MAX_TERMINATION_BYTES
    read = Termination.parse(text)
    assert read.reason == "ModelInvalid"
    assert read.message == message or (read.message.endswith("...") and message.startswith(read.message[:-3]))


@pytest.mark.parametrize(
    "text",
    ["", "Killed", "[]", "3", '{"reason": "x"}', '{"reason": 1, "message": "m"}', '{"reason": "a b", "message": "m"}'],
)
def test_other_last_words_are_none_of_ours(text):
    assert Termination.parse(text) is None


# --- /state


def test_a_status_is_read_back():
    model = ServedModel(architecture="llama", max_model_len=99, instruction_set="avx2", exactness="exact")
    status = WorkerStatus(phase=Phase.READY, progress=1.0, model=model)
    assert WorkerStatus.parse(status.to_json()) == status
    loading = WorkerStatus(phase=Phase.LOADING, reason="", message="m", progress=0.5)
    assert WorkerStatus.parse(loading.to_json()) == loading


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"phase": "Loading", "progress": "much"}', WorkerStatus(phase=Phase.LOADING)),
        (b'{"phase": "Loading", "progress": 7}', WorkerStatus(phase=Phase.LOADING)),
        (b'{"phase": "Loading", "reason": null}', WorkerStatus(phase=Phase.LOADING)),
        (b'{"phase": "Ready", "model": 3}', WorkerStatus(phase=Phase.READY)),
        (b'{"phase": "Ready", "model": {"new": 3}}', WorkerStatus(phase=Phase.READY, model=ServedModel())),
        (b'{"phase": "Sleeping"}', None),
        (b'{"phase": 1}', None),
        (b'{"phase": []}', None),
        (b"[]", None),
        (b"3", None),
        (b"<html>", None),
        (b"\xff", None),
    ],
)
def test_a_status_is_read_with_care(body, status):
    assert WorkerStatus.parse(body) == status


def test_a_long_status_is_cut():
    read = WorkerStatus.parse(json.dumps({"phase": "Failed", "reason": "R" * 999, "message": "m" * 99_999}))
    assert (len(read.reason), len(read.message)) == (64, 4096)


# --- /routes


def test_routes_are_read_back():
    workers = tuple(
        WorkerRoute(worker_id=state.value, revision="r", state=state, indexed_blocks=7) for state in RouteState
    )
    mine = DeploymentRoutes(namespace="n", name="m", served_name="s", policy="kvAware", workers=workers)
    routes = Routes((mine, replace(mine, name="late", name_taken_by="n/m")))
    assert Routes.parse(routes.to_json()) == routes
    assert routes.deployments[0].ready == {"ready"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"3",
        b'{"deployments": [{}]}',
        b'{"deployments": [{"namespace": "n", "name": "m", "workers": [1]}]}',
        b'{"deployments": [{"namespace": "n", "name": "m", "workers": [{"worker_id": "w", "state": "?"}]}]}',
    ],
)
def test_routes_that_are_none(body):
    with pytest.raises(ValueError, match="router"):
        Routes.parse(body)


# --- the log


@pytest.mark.parametrize(("kind", "json_lines"), [("plain", False), ("json", True), ("", False)])
def test_the_log_of_every_part_is_set_up_in_one_place(kind, json_lines):
    code = (
        "import logging, os\n"
        "from argosy_api import logs\n"
        "logs.configure(os.environ)\n"
        "log = logging.getLogger('a')\n"
        "log.debug('hidden')\n"
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    log.exception('said %d', 1)\n"
    )
    environment = os.environ | {"ARGOSY_LOG_FORMAT": kind, "ARGOSY_LOG_LEVEL": "warning"}
    err = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stderr
    if json_lines:
        [line] = err.splitlines()
        found = json.loads(line)
        assert (found["level"], found["logger"], found["message"]) == ("ERROR", "a", "said 1")
        assert "ZeroDivisionError" in found["exception"]
    else:
        assert " ERROR a: said 1\n" in err
    assert "hidden" not in err


@pytest.mark.parametrize("variable", ["ARGOSY_LOG_FORMAT", "ARGOSY_LOG_LEVEL"])
def test_a_wrong_setting_of_the_log_is_named(variable):
    from argosy_api import logs

    with pytest.raises(InvalidArgumentError, match=variable):
        logs.configure({variable: "loud"})
