"""The operator's API client beside the asynchronous one of the official package, doing the operator's calls.

    python benchmarks/kubernetes_client.py [--rounds 9]

Both talk to the API server stand-in of the tests, which runs in a process of its own, in turn (A B B A A B ...), so a
machine whose speed drifts harms neither. CPU is that of the client's process; memory and start are of fresh processes.
"""

import argparse
import asyncio
import copy
import importlib.metadata
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
NAMESPACE = "default"
PODS = 500
APPLIES = 40

SERVER = """
import asyncio, sys
sys.path[:0] = [{kit!r}]
import fakecluster
async def main():
    server = fakecluster.api()
    for n in range({pods}):
        name = f"w-{{n}}"
        container = {{"name": "worker", "image": "i", "env": [{{"name": f"V{{k}}", "value": "x"}} for k in range(12)]}}
        body = {{"apiVersion": "v1", "kind": "Pod",
                "metadata": {{"name": name, "namespace": "default", "labels": {{"app": "argosy"}}}},
                "spec": {{"containers": [container]}}, "status": {{"phase": "Running", "podIP": "10.0.0.1"}}}}
        server.create(fakecluster.Key(fakecluster.PODS, "default", name), body)
    async with server.serve() as url:
        print(url, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""
FRESH = """
import sys, time
began = time.perf_counter()
{statement}
took = time.perf_counter() - began
rss = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
print(took, rss / 1024)
"""
OURS = "import argosy_operator.app"
THEIRS = OURS + "; from kubernetes.aio import client; client.AppsV1Api, client.V1Deployment, client.V1Pod"


def manifest() -> dict:
    """A worker Deployment, as the plan has it."""
    from argosy_api.resource import parse
    from argosy_operator.manifests import PlanSettings
    from argosy_operator.plan import Observed, plan

    document = {
        "apiVersion": "serving.argosy.dev/v1alpha1",
        "kind": "InferenceDeployment",
        "metadata": {"name": "m", "namespace": NAMESPACE, "uid": "u"},
        "spec": {"model": {"uri": "sim://tiny"}},
    }
    return next(m for m in plan(parse(document), Observed(), PlanSettings()).apply if m["kind"] == "Deployment")


async def _alternating(
    rounds: int, sides: dict[str, Callable[[], Awaitable[None]]]
) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU seconds of each side's runs; the first of each is thrown away."""
    seen: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for turn in range(rounds + 1):
        for side in sorted(sides, reverse=bool(turn % 2)):
            wall, cpu = time.perf_counter(), time.process_time()
            await sides[side]()
            if turn:
                seen[side].append((time.perf_counter() - wall, time.process_time() - cpu))
    return seen


async def measure(url: str, rounds: int) -> list[tuple[str, dict[str, list[tuple[float, float]]], int]]:
    from kubernetes.aio import client

    from argosy_kube.access import Access
    from argosy_kube.http import HttpTransport
    from argosy_operator.kube import HttpKubeApi
    from argosy_operator.observe import PodView

    body, numbers = manifest(), itertools.count()
    configuration = client.Configuration(host=url)
    async with aiohttp.ClientSession() as session, client.ApiClient(configuration) as official:
        ours, apps, core = (
            HttpKubeApi(session, Access(server=url)),
            client.AppsV1Api(official),
            client.CoreV1Api(official),
        )
        uid = (await ours.create(copy.deepcopy(body)))["metadata"]["uid"]

        def intent() -> dict:
            changed = copy.deepcopy(body)
            changed["spec"]["replicas"] = next(numbers) % 50
            return changed

        async def apply_ours() -> None:
            await ours.apply(intent(), uid)

        async def apply_theirs() -> None:
            await apps.patch_namespaced_deployment(
                body["metadata"]["name"], NAMESPACE, intent(), field_manager="argosy-operator", force=True,
                _content_type="application/apply-patch+yaml",
            )  # fmt: skip

        def one_by_one(call: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
            async def run() -> None:
                for _ in range(APPLIES):
                    await call()

            return run

        def at_once(call: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
            async def run() -> None:
                await asyncio.gather(*(call() for _ in range(APPLIES)))

            return run

        async def list_ours() -> None:
            answer = await HttpTransport(session, Access(server=url)).get(f"/api/v1/namespaces/{NAMESPACE}/pods", {})
            views = [PodView.from_body(item) for item in answer["items"]]
            if len(views) != PODS:
                raise RuntimeError(f"{len(views)} pods listed")

        async def list_theirs() -> None:
            answer = await core.list_namespaced_pod(NAMESPACE)
            if len(answer.items) != PODS:
                raise RuntimeError(f"{len(answer.items)} pods listed")

        return [
            ("apply of a Deployment, one by one", await _alternating(
                rounds, {"ours": one_by_one(apply_ours), "theirs": one_by_one(apply_theirs)}), APPLIES),
            (f"the same, {APPLIES} at once", await _alternating(
                rounds, {"ours": at_once(apply_ours), "theirs": at_once(apply_theirs)}), APPLIES),
            (f"list of {PODS} pods to what a pass reads", await _alternating(
                rounds, {"ours": list_ours, "theirs": list_theirs}), 1),
        ]  # fmt: skip


def fresh(statement: str) -> tuple[float, float]:
    """Seconds and MiB of a process that only imports, the least of five."""
    runs = [
        json.loads("[" + subprocess.check_output([sys.executable, "-c", FRESH.format(statement=statement)], text=True)
                   .replace(" ", ",") + "]")
        for _ in range(5)
    ]  # fmt: skip
    return min(seconds for seconds, _ in runs), min(mib for _, mib in runs)


def installed_size(name: str) -> float:
    """MiB that a distribution's files take."""
    files = importlib.metadata.files(name) or []
    return sum(path.stat().st_size for f in files if (path := Path(str(f.locate()))).exists()) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    table = Table("figure", "argosy_kube", "kubernetes.aio", "ratio")
    code = SERVER.format(kit=str(ROOT / "tests/kit"), pods=PODS)
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        url = server.stdout.readline().strip() if server.stdout else ""
        for name, seen, calls in asyncio.run(measure(url, options.rounds)):
            for kind, index in (("wall", 0), ("CPU", 1)):
                a, b = (
                    statistics.median(run[index] for run in seen[side]) / calls * 1000 for side in ("ours", "theirs")
                )
                ratio = statistics.median(
                    t[index] / o[index] for o, t in zip(seen["ours"], seen["theirs"], strict=True)
                )
                table.add_row(f"{name}, {kind} (ms)", f"{a:.2f}", f"{b:.2f}", f"{ratio:.2f}")
    finally:
        server.kill()
        server.wait()
    (start, mib), (their_start, their_mib) = fresh(OURS), fresh(THEIRS)
    table.add_row("operator's imports (s)", f"{start:.2f}", f"{their_start:.2f}", f"{their_start / start:.2f}")
    table.add_row("resident after them (MiB)", f"{mib:.0f}", f"{their_mib:.0f}", f"{their_mib / mib:.2f}")
    table.add_row("installed size (MiB)", "0", f"{installed_size('kubernetes'):.0f}", "")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
