"""Speed and weight of the operator on a real API server, beside what was published or measured of KubeAI.

Starts its own operator (`python -m argosy_operator`) for a namespace of its own, so no other operator may watch that
namespace; with --installed it measures the one that is there, without the parts that need its process. It has a lease,
as in an installation: after its SIGKILL the next one waits for the end of that. Workers need no place to run: pods may
stay Pending; with pretended nodes (kwok) they run.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import sys
import time
from pathlib import Path

import aiohttp
import yaml

from argosy_api.crd import crd
from argosy_api.resource import API_VERSION, GROUP, KIND, PLURAL, VERSION
from argosy_kube import access as kube_access
from argosy_kube import http as kube_http
from argosy_kube.reflector import Key, Reflector

ROOT = Path(__file__).resolve().parents[1]
NAMESPACE = "argosy-benchmark"
RESOURCES = f"/apis/{GROUP}/{VERSION}/namespaces/{NAMESPACE}/{PLURAL}"
CHILD_PATHS = {
    "deployments": f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments",
    "services": f"/api/v1/namespaces/{NAMESPACE}/services",
    "budgets": f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets",
    "accounts": f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts",
    "pods": f"/api/v1/namespaces/{NAMESPACE}/pods",
}
KUBEAI = {
    "create": "15.5 ms", "create back to back": "2,215 ms", "pod": "35 ms", "many": "602 s", "restart": "18 s",
    "rss": "92 MiB", "idle": "0.3 %",
}  # fmt: skip


class Cluster:
    """Calls and watches; every change is stamped when it is seen."""

    def __init__(self, http: aiohttp.ClientSession, access: kube_access.Access) -> None:
        self.http, self.access = http, access
        self.seen: dict[str, dict[str, float]] = {kind: {} for kind in CHILD_PATHS}
        self.owner: dict[str, str] = {}
        self.changed = asyncio.Event()
        self.changed_at = time.monotonic()
        transport = kube_http.HttpTransport(http, access)
        self.reflectors = [
            Reflector(transport, path, lambda body: body["metadata"], self._on_change(kind))
            for kind, path in CHILD_PATHS.items()
        ]

    def _on_change(self, kind):
        def on_change(key: Key, before, after) -> None:
            if before is None:
                self.seen[kind][key.name] = time.monotonic()
            if after is None:
                self.seen[kind].pop(key.name, None)
            if after is not None and kind == "pods":
                self.owner[key.name] = (after.get("labels") or {}).get(f"{GROUP}/name", "")
            self.changed.set()
            self.changed_at = time.monotonic()

        return on_change

    async def call(self, method: str, path: str, body=None, kind: str = "application/json"):
        headers = {"Content-Type": kind, **self.access.headers()}
        async with self.http.request(method, self.access.server + path, json=body, headers=headers) as response:
            if response.status >= 400 and response.status not in (404, 409, 429):
                raise RuntimeError(f"{method} {path}: {response.status} {await response.text()}")
            # a path that the API server does not serve yet is answered in plain text
            return response.status, await response.json() if response.content_type == "application/json" else {}

    async def until(self, condition, within: float = 900.0) -> float:
        """Seconds from now until it holds."""
        began = time.monotonic()
        async with asyncio.timeout(within):
            while not condition():
                self.changed.clear()
                await self.changed.wait()
        return time.monotonic() - began

    async def quiet(self, seconds: float, within: float = 180.0) -> None:
        """Until nothing has changed for so long: the cluster's own controllers take their time with many objects."""
        async with asyncio.timeout(within):
            while (age := time.monotonic() - self.changed_at) < seconds:
                await asyncio.sleep(seconds - age)

    def complete(self, name: str) -> float | None:
        """When the last of a resource's children was seen."""
        names = {"deployments": f"{name}-leader"} | dict.fromkeys(("services", "budgets", "accounts"), f"{name}-worker")
        times = [self.seen[kind].get(child) for kind, child in names.items()]
        return None if None in times else max(times)

    async def create(self, name: str) -> float:
        """When the API server had it."""
        document = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": name},
            "spec": {
                "model": {"uri": "sim://tiny"},
                "resources": {"cpu": "10m", "memory": "32Mi"},
                "placement": {
                    "nodeSelector": {"argosy.dev/pretended": "true"},
                    "tolerations": [{"key": "argosy.dev/pretended", "operator": "Exists"}],
                },
            },
        }
        await self.call("POST", RESOURCES, document)
        return time.monotonic()

    async def delete(self, name: str) -> None:
        await self.call("DELETE", f"{RESOURCES}/{name}")

    def pods(self, name: str) -> set[str]:
        return {pod for pod in self.seen["pods"] if self.owner.get(pod) == name}


class Operator:
    """Our own process."""

    def __init__(self) -> None:
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        settings = {
            "ARGOSY_WATCH_NAMESPACES": NAMESPACE,
            "ARGOSY_METRICS_PORT": "0",
            "ARGOSY_LOG_LEVEL": "WARNING",
            "ARGOSY_LEASE": NAMESPACE,
            "ARGOSY_LEASE_NAMESPACE": "default",  # in the other one it would go before the resources
        }
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "argosy_operator", cwd=ROOT, env={**os.environ, **settings}
        )

    async def stop(self, how: int = signal.SIGTERM) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(how)
            await self.process.wait()

    def rss_mb(self) -> float:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024

    def peak_mb(self) -> float:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmHWM:")[1].split()[0]) / 1024

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def say(what: str, value: str, bound: str, kubeai: str = "") -> None:
    print(f"{what:<52} {value:>22}   bound {bound:<10} KubeAI {kubeai}", flush=True)


def spread(values: list[float]) -> str:
    ms = sorted(v * 1000 for v in values)
    return f"{statistics.median(ms):.0f} / {ms[int(len(ms) * 0.9)]:.0f} ms"


async def creations(cluster: Cluster, count: int, *, quiet: bool) -> list[float]:
    times = []
    for index in range(count):
        name = f"{'q' if quiet else 'b'}{index}"
        if quiet:
            await asyncio.sleep(1.0)
        created = await cluster.create(name)
        await cluster.until(lambda n=name: cluster.complete(n), 60)
        times.append(cluster.complete(name) - created)
    return times


async def pod_replacements(cluster: Cluster, count: int) -> list[float]:
    times = []
    await cluster.create("p")
    await cluster.until(lambda: cluster.pods("p"), 60)
    for _ in range(count):
        await asyncio.sleep(0.5)
        before = cluster.pods("p")
        began = time.monotonic()
        await cluster.call("DELETE", f"{CHILD_PATHS['pods']}/{next(iter(before))}")
        await cluster.until(lambda b=before: cluster.pods("p") - b, 60)
        times.append(time.monotonic() - began)
    return times


async def clean(cluster: Cluster) -> None:
    _, found = await cluster.call("GET", RESOURCES)
    for item in found.get("items", ()):
        await cluster.delete(item["metadata"]["name"])
    with contextlib.suppress(TimeoutError):
        await cluster.until(lambda: not cluster.seen["deployments"], 600)


async def measure(cluster: Cluster, operator: Operator | None, many: int, trials: int) -> None:
    say(
        "create -> all children, quiet (median / p90)",
        spread(await creations(cluster, trials, quiet=True)),
        "150 ms",
        KUBEAI["create"],
    )
    say(
        "create -> all children, back to back",
        spread(await creations(cluster, trials, quiet=False)),
        "300 ms",
        KUBEAI["create back to back"],
    )
    try:
        say("pod deleted -> replacement", spread(await pod_replacements(cluster, trials)), "150 ms", KUBEAI["pod"])
    except TimeoutError:
        print("pods are not created in this cluster: replacement not measured")
    await clean(cluster)
    names = [f"n{i}" for i in range(many)]
    places = asyncio.Semaphore(8)

    async def one(name: str) -> None:
        async with places:
            await cluster.create(name)

    began = time.monotonic()
    await asyncio.gather(*(one(name) for name in names))
    await cluster.until(lambda: all(cluster.complete(n) for n in names))
    say(f"{many} at once -> all have their children", f"{time.monotonic() - began:.1f} s", "300 s", KUBEAI["many"])
    if operator is not None:
        await cluster.quiet(10, 600)
        cpu, began = operator.cpu_s(), time.monotonic()
        await asyncio.sleep(20)
        share = (operator.cpu_s() - cpu) / (time.monotonic() - began) * 100
        say(f"CPU when idle, with {many}", f"{share:.1f} % of a core", "5 %", KUBEAI["idle"])
        say(
            f"resident, with {many} (at most)",
            f"{operator.rss_mb():.0f} ({operator.peak_mb():.0f}) MiB",
            "512 MiB",
            KUBEAI["rss"],
        )
        await operator.stop(signal.SIGKILL)
        began = time.monotonic()
        await operator.start()
        await cluster.create("after")
        await cluster.until(lambda: cluster.complete("after"), 120)
        say("SIGKILL and restart -> acts again", f"{time.monotonic() - began:.1f} s", "20 s", KUBEAI["restart"])
    began = time.monotonic()
    await clean(cluster)
    print(f"{many} deleted: {time.monotonic() - began:.1f} s")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resources", type=int, default=200)
    parser.add_argument("--trials", type=int, default=15)
    parser.add_argument("--installed", action="store_true", help="measure the operator that is in the cluster")
    parser.add_argument("--print-crd", action="store_true", help="print the definition as YAML and end")
    chosen = parser.parse_args()
    if chosen.print_crd:
        print(yaml.safe_dump(crd()))
        return
    access = kube_access.find()
    async with kube_http.session(access) as http:
        cluster = Cluster(http, access)
        _, running = await cluster.call(
            "GET", "/api/v1/pods?labelSelector=app.kubernetes.io/component%3Doperator,app.kubernetes.io/name%3Dargosy"
        )
        if running.get("items") and not chosen.installed:
            sys.exit("an operator is installed in this cluster: use --installed, or scale it to 0")
        definition = crd()
        await cluster.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
        await cluster.call("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        status = 404
        while status in (404, 429):  # 429: "storage is (re)initializing", for a moment after a definition was made
            status, _ = await cluster.call("GET", RESOURCES)
            await asyncio.sleep(0.2)
        tasks = [asyncio.create_task(reflector.run()) for reflector in cluster.reflectors]
        operator = None if chosen.installed else Operator()
        try:
            for reflector in cluster.reflectors:
                await reflector.synced.wait()
            if operator is not None:
                await operator.start()
            await cluster.create("warm")
            await cluster.until(lambda: cluster.complete("warm"), 60)
            _, version = await cluster.call("GET", "/version")
            print(json.dumps({"server": version["gitVersion"], "cores": os.cpu_count(), "resources": chosen.resources}))
            await measure(cluster, operator, chosen.resources, chosen.trials)
        finally:
            await cluster.call("DELETE", f"/api/v1/namespaces/{NAMESPACE}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(300):  # the resources go only while there is an operator
                    while (await cluster.call("GET", RESOURCES))[1].get("items"):
                        await asyncio.sleep(0.5)
            if operator is not None:
                await operator.stop()
            await cluster.call("DELETE", f"/apis/coordination.k8s.io/v1/namespaces/default/leases/{NAMESPACE}")
            for task in tasks:
                task.cancel()


if __name__ == "__main__":
    asyncio.run(main())
