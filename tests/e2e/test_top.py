"""`kubectl argosy top`: kubectl finds the plug-in, and routers are asked through the API server."""

import json
import os
import subprocess
import sys

import pytest
from e2e_kit import Load, resource, wait_for, wait_ready


@pytest.fixture
def argosy(tmp_path):
    """`kubectl argosy`, through kubectl itself."""
    plugin = tmp_path / "kubectl-argosy"
    plugin.write_text(f"#!{sys.executable}\nfrom argosy_cli.main import main\nmain()\n")
    plugin.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": ":".join(sys.path)}

    def run(*arguments, **more):
        return subprocess.run(
            ["kubectl", "argosy", *arguments],
            env=environment | more, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    return run


def test_what_is_done_is_seen(namespace, http, argosy):
    empty = argosy("top", "-n", namespace.namespace)
    assert (empty.returncode, empty.stderr) == (
        1,
        f"error: no InferenceDeployment in namespace {namespace.namespace}\n",
    )
    # without guessing ahead, which makes short work of texts that come again: at any moment some requests run
    slow = {"speculative": {"method": "off"}}
    namespace.apply(resource("top", "sim://top?decode_ms=20", replicas=2, engine=slow))
    wait_ready(namespace, "top")

    def look():
        done = argosy("top", "-n", namespace.namespace, "-o", "json")
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        assert document["notes"] == []
        [item] = document["items"]
        return item

    with Load(http, "top", per_second=4) as load:
        load.wait_running()
        busy = wait_for("rates are told", lambda: (item := look())["generatedTokensPerSecond"] and item)
    assert load.failures == []
    assert (busy["ready"], busy["desired"], busy["reason"]) == (2, 2, "Ready")
    assert busy["running"] > 0
    assert 0 < busy["kvUsed"] < 1
    assert busy["hitRate"] is not None
    table = argosy("top", "-A").stdout.splitlines()
    assert table[0].split()[:3] == ["NAMESPACE", "NAME", "READY"]
    assert [namespace.namespace, "top", "2/2"] in [line.split()[:3] for line in table]


def test_who_may_not_ask_routers_sees_the_replicas(namespace, system, cluster, argosy, tmp_path):
    """And what was refused; nothing is shown as zero."""
    namespace.apply(resource("top", replicas=1))
    wait_ready(namespace, "top")
    namespace("create", "serviceaccount", "viewer")
    namespace("create", "role", "viewer", "--verb=list,get", "--resource=inferencedeployments.serving.argosy.dev")
    namespace("create", "rolebinding", "viewer", "--role=viewer", f"--serviceaccount={namespace.namespace}:viewer")
    config = json.loads(cluster("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    token = namespace("create", "token", "viewer").strip()
    config["users"] = [{"name": config["users"][0]["name"], "user": {"token": token}}]
    path = tmp_path / "config"
    path.write_text(json.dumps(config))
    done = argosy("top", "-n", namespace.namespace, KUBECONFIG=str(path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split() == ["top", "1/1", *["-"] * 10]
    assert done.stderr.startswith(f"the routers in {system.namespace} cannot be asked: status 403")
