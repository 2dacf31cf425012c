"""Autoscalers that are not ours: a plain HorizontalPodAutoscaler by what the operator serves, and what KEDA does."""

import asyncio
import json
import time

import aiohttp
import grpc
import pytest
from e2e_installed import apart
from e2e_kit import RELEASE, Load, reach, resource, wait_for, wait_ready

from argosy_api.externalscaler import externalscaler_pb2 as pb
from argosy_api.externalscaler import externalscaler_pb2_grpc as service

GROUP = "v1beta1.external.metrics.k8s.io"


@pytest.fixture(scope="module")
def metrics(system, cluster):
    """The operator serves the group."""
    wait_for("the API server gets an answer", lambda: is_available(cluster), 60)


def is_available(cluster):
    conditions = (cluster.get("apiservice", GROUP) or {}).get("status", {}).get("conditions", [])
    return any((c["type"], c["status"]) == ("Available", "True") for c in conditions)


def autoscaler(name, about="", **spec):
    """By the requests at the workers of a resource."""
    metric = {"name": "argosy-running", "selector": {"matchLabels": {"deployment": about or name}}}
    target = {"type": "AverageValue", "averageValue": "4"}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name},
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "serving.argosy.dev/v1alpha1", "kind": "InferenceDeployment", "name": name,
            },
            "minReplicas": 1,
            "maxReplicas": 3,
            "metrics": [{"type": "External", "external": {"metric": metric, "target": target}}],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 10}},
            **spec,
        },
    }  # fmt: skip


def replicas(namespace, name):
    return namespace.get("infd", name)["spec"]["replicas"]


def scaling_active(namespace, name):
    """(status, reason, message) of the condition of an autoscaler."""
    conditions = namespace.get("hpa", name).get("status", {}).get("conditions", [])
    found = next((c for c in conditions if c["type"] == "ScalingActive"), {})
    return found.get("status"), found.get("reason"), found.get("message", "")


def test_a_plain_autoscaler_goes_up_with_the_load_and_down_without_it(metrics, namespace, http):
    """Beside it one whose metric is about nothing that there is: it holds."""
    # without guessing ahead, which makes short work of texts that come again
    slow = resource("pressed", "sim://pressed?decode_ms=40", engine={"speculative": {"method": "off"}})
    namespace.apply(slow, autoscaler("pressed"))
    namespace.apply(resource("unknown", replicas=2), autoscaler("unknown", about="nobody"))
    wait_ready(namespace, "pressed")
    wait_for("the metric is known", lambda: scaling_active(namespace, "pressed")[1] == "ValidMetricFound", 60)
    assert replicas(namespace, "pressed") == 1
    with Load(http, "pressed", per_second=5.0, max_tokens=64) as load:
        began = time.monotonic()
        wait_for("more are asked for", lambda: replicas(namespace, "pressed") == 3, 60)
        print(f"{time.monotonic() - began:.1f} s from the first request until three workers were asked for")
        wait_ready(namespace, "pressed")
    assert load.failures == []
    began = time.monotonic()
    wait_for("all but one are taken away", lambda: replicas(namespace, "pressed") == 1, 90)
    print(f"{time.monotonic() - began:.1f} s from the last answer until one was asked for")
    status, reason, message = scaling_active(namespace, "unknown")
    assert (status, reason) == ("False", "FailedGetExternalMetric")
    assert f"no router knows an InferenceDeployment {namespace.namespace}/nobody" in message
    assert replicas(namespace, "unknown") == 2


def test_who_may_not_is_refused_and_discovery_is_for_all(metrics, namespace):
    path = f"/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace.namespace}/argosy-held?labelSelector=deployment%3Dx"
    account = f"--as=system:serviceaccount:{namespace.namespace}:default"
    refused = namespace.run("get", "--raw", path, account, "--as-group=system:authenticated")
    assert "Forbidden" in refused.stderr
    found = json.loads(
        namespace("get", "--raw", "/apis/external.metrics.k8s.io/v1beta1", account, "--as-group=system:authenticated")
    )
    assert "argosy-held" in {r["name"] for r in found["resources"]}
    namespace("create", "role", "reads", "--verb=list", "--resource=argosy-held.external.metrics.k8s.io")
    namespace("create", "rolebinding", "reads", "--role=reads", f"--serviceaccount={namespace.namespace}:default")
    answer = wait_for("the right is known", lambda: told(namespace.run("get", "--raw", path, account)), 30)
    assert "no router knows an InferenceDeployment" in answer


def told(done):
    return "" if "Forbidden" in done.stderr else done.stdout + done.stderr


@pytest.mark.apart
def test_from_no_worker_to_one_as_keda_does_it(nobody_else, cluster):
    """A stream of the scaler tells that requests wait; then the resource is scaled, and all of them are answered."""
    with apart(cluster, "kedaScaler.enabled=true") as (system, namespace):
        from_none_to_one(system, namespace)


def from_none_to_one(system, namespace):
    namespace.apply(resource("rare", replicas=0, routing={"holdSeconds": 90}))
    wait_for("nobody is there", lambda: namespace.condition("rare").get("reason") == "ScaledToZero", 60)
    metadata = {"deployment": "rare", "metric": "argosy-running", "target": "4"}
    about = pb.ScaledObjectRef(name="rare", namespace=namespace.namespace, scalerMetadata=metadata)

    async def ask(session, http, i):
        body = {"model": "rare", "prompt": f"number {i}", "max_tokens": 4}
        async with session.post(f"http://{http}/v1/completions", json=body) as reply:
            return reply.status, await reply.text()

    async def keda(address, http):
        async with grpc.aio.insecure_channel(address) as channel, aiohttp.ClientSession() as session:
            scaler = service.ExternalScalerStub(channel)
            news = scaler.StreamIsActive(about, wait_for_ready=True, timeout=120)
            assert not (await news.read()).result
            asked = [asyncio.create_task(ask(session, http, i)) for i in range(10)]
            began = time.monotonic()
            assert (await news.read()).result
            print(f"{time.monotonic() - began:.1f} s until the scaler told that requests wait")
            question = pb.GetMetricsRequest(scaledObjectRef=about, metricName="argosy-running")
            async with asyncio.timeout(30):  # all ten are counted, once the router has been asked again
                while (await scaler.GetMetrics(question)).metricValues[0].metricValueFloat != 10:
                    await asyncio.sleep(0.2)
            await asyncio.to_thread(namespace, "scale", "infd/rare", "--replicas=1")
            answers = await asyncio.gather(*asked)
            news.cancel()
            return answers

    with (
        reach(system, f"service/{RELEASE}-router", 8000) as http,
        reach(system, f"service/{RELEASE}-keda-scaler", 8444) as address,
    ):
        wait_for("the scaler knows the resource", lambda: knows(address, about), 60)
        answers = asyncio.run(keda(address, http))
    assert {status for status, _ in answers} == {200}, answers[:3]


def knows(address, about):
    with grpc.insecure_channel(address) as channel:
        try:
            return service.ExternalScalerStub(channel).IsActive(about, timeout=5) is not None
        except grpc.RpcError:
            return False
