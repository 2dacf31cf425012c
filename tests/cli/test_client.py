"""The client side: requests, figures, and where a router is found."""

import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from argosy_api.errors import InvalidArgumentError
from argosy_api.inference import inference_pb2 as oip
from argosy_api.inference import inference_pb2_grpc
from argosy_api.params import SamplingParams
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc
from argosy_cli import ask, client, demo
from argosy_cli.client import Answer, Client
from argosy_cli.embedded import run
from argosy_cli.embedded.states import ResourceState, RunState
from argosy_cli.errors import CommandError, RequestError


class FakeIndex(inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Tells which models there are to whoever has the key."""

    def __init__(self):
        self.models = []

    def RepositoryIndex(self, request, context):
        if ("authorization", "Bearer key") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no credential")
        models = [oip.RepositoryIndexResponse.ModelIndex(name=name, state="READY") for name in self.models]
        return oip.RepositoryIndexResponse(models=models)


class FakeInference(worker_pb2_grpc.InferenceServicer):
    """Answers each request with its words, one chunk each; ends with an error when asked to."""

    def __init__(self):
        self.requests = []
        self.cancelled = threading.Event()

    def Generate(self, request, context):
        self.requests.append(request)
        context.send_initial_metadata([("x-argosy-worker", "w-1"), ("x-argosy-decision", "kvAware:prefix")])
        words = request.text.split() or [m.content for m in request.chat.messages]
        if "forever" in words:  # not seen by the loop below when the cancel comes before it is asked for more
            context.add_callback(self.cancelled.set)
        for i, word in enumerate(words):
            if word == "fail":
                context.abort(grpc.StatusCode.UNAVAILABLE, "the worker died after 1 token")
            while word == "forever" and context.is_active():
                time.sleep(0.01)
            if not context.is_active():
                return
            chunk = pb.GenerateChunk(index=i, token_ids=[i], text=word + " ")
            if i == 0:
                chunk.usage.CopyFrom(pb.Usage(prompt_tokens=40, cached_tokens=32))
            if i == len(words) - 1:
                chunk.finish_reason = pb.FINISH_REASON_STOP
            yield chunk


@pytest.fixture
def fake():
    server = grpc.server(ThreadPoolExecutor(2))
    service = FakeInference()
    worker_pb2_grpc.add_InferenceServicer_to_server(service, server)
    service.index = FakeIndex()
    inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(service.index, server)
    service.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield service
    server.stop(None).wait()


def request(text):
    return ask.raw_request("m", text, SamplingParams(max_tokens=8, temperature=0.0, seed=7, stop=("x",)))


def test_an_answer_is_streamed_and_counted(fake):
    answer = Answer()
    with Client(fake.address) as connection:
        assert list(connection.stream(request("one two three"), answer)) == ["one ", "two ", "three "]
    assert (answer.text, answer.tokens, answer.prompt_tokens, answer.cached_tokens) == ("one two three ", 3, 40, 32)
    assert (answer.worker, answer.decision, answer.finish_reason) == ("w-1", "kvAware:prefix", "stop")
    assert 0 < answer.first_token_s <= answer.total_s
    assert answer.summary().startswith("40 prompt tokens (32 cached) · 3 generated · worker w-1 · first token ")


def test_sampling_goes_out_as_given(fake):
    with Client(fake.address) as connection:
        list(connection.stream(request("one"), Answer()))
    sent = fake.requests[0]
    assert (sent.model, sent.text) == ("m", "one")
    assert sent.sampling.HasField("temperature")
    assert (sent.sampling.temperature, sent.sampling.max_tokens, sent.sampling.seed, list(sent.sampling.stop)) == (
        0,
        8,
        7,
        ["x"],
    )


def test_chat_sends_the_whole_conversation():
    turns = [ask.Turn("system", "s"), ask.Turn("user", "u")]
    sent = ask.chat_request("m", turns, SamplingParams())
    assert [(m.role, m.content) for m in sent.chat.messages] == [("system", "s"), ("user", "u")]


@pytest.mark.parametrize("bad", [{"temperature": -1.0}, {"temperature": float("nan")}, {"max_tokens": 0}, {"seed": -1}])
def test_wrong_sampling_is_refused_before_it_is_sent(bad):
    with pytest.raises(InvalidArgumentError) as caught:
        ask.raw_request("m", "text", SamplingParams(**bad))
    assert caught.value.field == next(iter(bad))


def test_an_error_in_the_middle_keeps_what_came(fake):
    answer = Answer()
    with Client(fake.address) as connection, pytest.raises(RequestError, match="UNAVAILABLE: the worker died after 1"):
        list(connection.stream(request("one fail"), answer))
    assert (answer.text, answer.worker) == ("one ", "w-1")


def test_leaving_a_stream_cancels_the_request(fake):
    answer = Answer()
    with Client(fake.address) as connection:
        stream = connection.stream(request("one forever"), answer)
        assert next(stream) == "one "
        stream.close()
        assert fake.cancelled.wait(10)
    assert (answer.tokens, answer.worker) == (1, "w-1")


def test_nobody_there_is_said_plainly():
    with Client(f"127.0.0.1:{_closed_port()}") as connection, pytest.raises(RequestError, match="no router answers at"):
        list(connection.stream(request("one"), Answer()))


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ARGOSY_HOME", str(tmp_path))
    return tmp_path


def start_run(home, *models):
    folder = run.create(home)
    resources = [ResourceState(namespace="d", name=m, served_name=m, uri="sim://m") for m in models]
    state = RunState(run="r", pid=1, started=0.0, http="h:1", grpc="h:2", metrics="h:3", resources=resources)
    run.write(folder.state, state.to_json())
    return folder


def test_the_running_router_is_found(home):
    assert client.find_address(None) == client.DEFAULT_ADDRESS
    folder = start_run(home, "one")
    assert client.find_address(None) == "h:2"
    assert client.find_address("grpc://other:9") == "other:9"
    assert client.find_model(None, "h:2") == "one"
    assert client.find_model("given", "h:2") == "given"
    folder.lock.close()


def test_a_router_that_is_no_run_of_ours_is_asked_for_its_models_at_the_same_address(fake, home, monkeypatch):
    """Whatever its HTTP port is."""
    fake.index.models = ["one"]
    with pytest.raises(RequestError, match=r"no credential \(set ARGOSY_API_KEY\)"):
        client.find_model(None, fake.address)
    monkeypatch.setenv("ARGOSY_API_KEY", "key")
    assert client.find_model(None, fake.address) == "one"
    for models, says in (([], "no model is served there"), (["b", "a"], "choose one with --model: a, b")):
        fake.index.models = models
        with pytest.raises(RequestError, match=says):
            client.find_model(None, fake.address)
    with pytest.raises(RequestError, match="no router answers at"):
        client.find_model(None, f"127.0.0.1:{_closed_port()}")


def test_between_several_models_the_user_chooses(home):
    folder = start_run(home, "one", "two")
    with pytest.raises(RequestError, match="choose one with --model: one, two"):
        client.find_model(None, "h:2")
    folder.lock.close()


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (Answer(text="a", worker="w"), Answer(text="", worker="w", cached_tokens=1), "an answer was empty"),
        (Answer(text="a", worker="w"), Answer(text="b", worker="w"), "nothing in the prefix cache"),
        (Answer(text="a", worker="w"), Answer(text="b", worker="v", cached_tokens=1), "went to w and to v"),
        (Answer(text="a"), Answer(text="b", cached_tokens=1), "went to"),
    ],
)
def test_the_demo_fails_when_what_it_shows_is_not_so(first, second, says):
    with pytest.raises(CommandError, match=says):
        demo._check(first, second)


def test_the_command_says_its_version():
    done = subprocess.run([sys.executable, "-m", "argosy_cli", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("argosy 0.")


def _closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
