"""What the operator adds to what the API server takes: `python benchmarks/operator_latency.py [--beside CHECKOUT]`.

An operator in a process of its own on the fake API server of the tests, each of whose calls takes a set time: no
cluster is needed, and the figures are of our own code. With --beside operators of two checkouts take turns in one run,
which is the way to learn whether a change made the operator slower: absolute figures are the machine's.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/kit"))

import fakecluster  # noqa: E402
from fakeapi import Key  # noqa: E402

ROOMS = ("api", "kube", "operator", "router", "worker", "cli", "client")
NAMESPACE = "default"
SPEC = {"replicas": 1, "model": {"uri": "sim://tiny"}, "resources": {"cpu": "10m", "memory": "32Mi"}}


def environment(checkout: Path, server: str, folder: Path) -> dict[str, str]:
    """Of an operator of a checkout that finds the server."""
    named = {
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "none"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "x", **named}))
    settings = {"ARGOSY_WATCH_NAMESPACES": NAMESPACE, "ARGOSY_METRICS_PORT": "0", "ARGOSY_LOG_LEVEL": "WARNING"}
    packages = ":".join(str(checkout / room) for room in ROOMS)
    return {**os.environ, **settings, "KUBECONFIG": str(path), "PYTHONPATH": packages}


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Run:
    """One operator, and resources that are made for it."""

    def __init__(self, call_s: float) -> None:
        self.server = fakecluster.api()
        self._call_s = call_s
        self.server.hooks.append(self._slow)

    async def _slow(self, request, phase: str) -> None:
        if phase == "before" and "watch" not in request.query:
            await asyncio.sleep(self._call_s if request.method != "GET" else self._call_s / 2)

    def complete(self, name: str) -> bool:
        there = {key.gvr for key in self.server.objects if key.name in (f"{name}-leader", f"{name}-worker")}
        wanted = {fakecluster.DEPLOYMENTS, fakecluster.SERVICES, fakecluster.BUDGETS, fakecluster.ACCOUNTS}
        return wanted <= there

    async def create(self, name: str) -> float:
        """Seconds from the new resource to the last of its children."""
        news = self.server.listen()
        body = {"apiVersion": "serving.argosy.dev/v1alpha1", "kind": "InferenceDeployment", "spec": SPEC}
        key = Key(fakecluster.RESOURCES, NAMESPACE, name)
        self.server.create(key, {**body, "metadata": {"name": name, "namespace": NAMESPACE}})
        began = time.monotonic()
        async with asyncio.timeout(60):
            while not self.complete(name):
                await news.get()
        return time.monotonic() - began

    async def measure(self, checkout: Path, trials: int, out: dict[str, list[float]]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with self.server.serve() as url, fakecluster.Controllers(self.server).running():
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "argosy_operator", cwd=folder, env=environment(checkout, url, Path(folder))
                )
                try:
                    await self.create("warm")
                    await asyncio.sleep(1.5)
                    for i in range(trials):
                        await asyncio.sleep(0.7)
                        out["quiet, ms"].append(await self.create(f"q{i}") * 1000)
                    await asyncio.sleep(1.0)
                    cpu, calls = cpu_s(process.pid), len(self.server.requests)
                    for i in range(trials):
                        out["back to back, ms"].append(await self.create(f"b{i}") * 1000)
                    await asyncio.sleep(1.0)
                    out["processor time each, ms"].append((cpu_s(process.pid) - cpu) / trials * 1000)
                    out["calls each"].append((len(self.server.requests) - calls) / trials)
                finally:
                    self.server.hooks.clear()
                    process.kill()
                    await process.wait()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beside", type=Path, help="the root of another checkout")
    parser.add_argument(
        "--call-ms", type=float, default=5.0, help="what a writing call takes; reading takes half of it"
    )
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    checkouts = [ROOT] if chosen.beside is None else [chosen.beside.resolve(), ROOT]
    figures = {checkout: {} for checkout in checkouts}
    for _ in range(chosen.rounds):
        for checkout in checkouts:
            names = ("quiet, ms", "back to back, ms", "processor time each, ms", "calls each")
            out = {name: figures[checkout].setdefault(name, []) for name in names}
            await Run(chosen.call_ms / 1000).measure(checkout, chosen.trials, out)
    for name in figures[ROOT]:
        cells = [f"{statistics.median(figures[c][name]):8.1f} (least {min(figures[c][name]):.1f})" for c in checkouts]
        print(f"{name:<26}" + "   ".join(cells), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
