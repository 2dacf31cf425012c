"""A thousand workers: the status is written whatever they wait for, and the operator stays small."""

import asyncio
import os
import sys
from pathlib import Path

import fakecluster
import yaml
from operator_kit import document
from waiting import eventually

WORKERS = 1000
MEBIBYTES = 250
LIMIT_S = 400.0
"""For what is done a thousand times over; about 10 s on two quiet cores."""


def kubeconfig(folder: Path, server: str) -> Path:
    """A file that names a server without any credential."""
    named = {
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "current-context": "x", **named}))
    return path


def most_memory(pid: int) -> float:
    """The most resident memory that a process ever had, in MiB."""
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


async def test_a_thousand_workers(world, tmp_path):
    words = "0/2 nodes are available: 2 Insufficient memory. " + "preemption: none of them helps. " * 20
    world.controllers.fate = lambda pod: fakecluster.unschedulable(words)
    environment = {"KUBECONFIG": str(kubeconfig(tmp_path, world.url)), "ARGOSY_METRICS_PORT": "0"}
    environment |= {"ARGOSY_HOST": "127.0.0.1", "ARGOSY_LOG_LEVEL": "WARNING"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "argosy_operator", env=os.environ | environment
    )
    try:
        world.apply(document(replicas=WORKERS))
        await eventually(lambda: world.status().get("replicas") == WORKERS, what="all are counted", within=LIMIT_S)
        await eventually(lambda: world.condition("Ready")[1] == "InsufficientMemory", within=LIMIT_S)
        assert all(len(c["message"]) <= 4096 for c in world.status()["conditions"])
        world.controllers.fate = fakecluster.ready
        world.controllers.settle()
        await eventually(lambda: world.status().get("ready") == f"{WORKERS}/{WORKERS}", within=LIMIT_S)
        assert world.is_ready()
        memory = most_memory(process.pid)
        print(f"operator with {WORKERS} workers: {memory:.0f} MiB at most")
        assert memory <= MEBIBYTES
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 30)
