"""Install, upgrade, roll back, uninstall, install anew: a resource is served throughout, and its workers stay.

Without ARGOSY_FORMER the former release is this chart with other pods everywhere. `ARGOSY_FORMER="folder --set …"` names
the chart of an older version, whose images must be in the cluster, and which serves all namespaces; then workers may be
replaced, and the upgrade may fail no request.
"""

import asyncio
import os
import shlex
import time

import aiohttp
import pytest
from e2e_installed import only, wait_rolled_out
from e2e_kit import CHART, RELEASE, SYSTEM, Load, helm, make_namespace, reach, resource, wait_for, wait_ready

pytestmark = pytest.mark.apart
FORMER = shlex.split(os.environ.get("ARGOSY_FORMER", ""))
COMPONENTS = ("operator", "router", "valkey")
TELL_APART = [f"--set-string={component}.podAnnotations.former=yes" for component in COMPONENTS]
NAME = "kept"


@pytest.fixture
def served(cluster):
    """A namespace whose resources the test must delete itself, while an operator is there."""
    made = make_namespace(cluster)
    yield made
    cluster("delete", "namespace", made.namespace, "--wait=false")


@pytest.fixture
def release(nobody_else, cluster, served):
    """Run Helm on a release for `served` and wait until all is as it says."""
    system = make_namespace(cluster, SYSTEM if FORMER else "")
    scope = [] if FORMER else only(served)

    def run(command, *arguments):
        values = scope if command in ("install", "upgrade") else []
        helm(command, RELEASE, *arguments, *values, "--namespace", system.namespace)
        if command != "uninstall":
            wait_rolled_out(system)
        return system

    yield run
    helm("uninstall", RELEASE, "--namespace", system.namespace, "--ignore-not-found", "--wait")
    if not FORMER:
        cluster("delete", "namespace", system.namespace, "--wait=false")


def names(kubectl):
    return sorted(pod["metadata"]["name"] for pod in kubectl.workers(NAME))


async def long_streams(address, leave):
    """Texts of streams that are under way when `leave` is called, and end after it."""
    async with aiohttp.ClientSession() as session:
        begun = asyncio.Semaphore(0)

        async def stream():
            body = {"model": NAME, "prompt": "A long story.", "max_tokens": 1200, "temperature": 0, "stream": True}
            async with session.post(f"http://{address}/v1/completions", json=body) as reply:
                begun.release()
                return (await reply.read()).decode()

        streams = [asyncio.create_task(stream()) for _ in range(4)]
        for _ in streams:
            await asyncio.wait_for(begun.acquire(), 30)
        await asyncio.to_thread(leave)
        return await asyncio.gather(*streams)


@pytest.mark.timeout(600)
def test_a_resource_is_served_from_install_to_uninstall(release, served):
    former = FORMER or [str(CHART), *TELL_APART]
    system = release("install", *former)
    served.apply(resource(NAME, replicas=2))
    wait_ready(served, NAME)
    workers = names(served)
    with reach(system, f"service/{RELEASE}-router", 8000) as address:
        with Load(address, NAME) as load:
            load.wait_running()
            for step in (("upgrade", str(CHART), "--set", "networkPolicy.enabled=true"), ("rollback", "1")):
                release(*step)
                wait_ready(served, NAME)
                after = time.monotonic()
                wait_for("streams go on", lambda since=after: len(load.succeeded_since(since)) >= 10, 30)
                if not FORMER:
                    restricted = step[0] == "upgrade"
                    wait_for("the policies", lambda on=restricted: bool(served.get("networkpolicies")) == on, 60)
                print(f"{step[0]}: {len(load.outcomes)} requests until here, {len(load.failures)} failed")
                # what an older operator does to workloads that it does not know is not this version's to say
                assert load.failures == [] or (FORMER and step[0] == "rollback")
        assert FORMER or names(served) == workers
        workers = names(served)

        for text in asyncio.run(long_streams(address, lambda: release("uninstall"))):
            assert text.endswith("data: [DONE]\n\n"), text[-200:]
    assert names(served) == workers, "workers serve on when nobody looks after them"
    # the new Valkey has another password, so these workers are replaced, as by any change
    release("install", str(CHART))
    wait_ready(served, NAME)
    served("delete", "infd", NAME, "--timeout=60s", timeout=70)
