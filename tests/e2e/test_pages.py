"""What the pages about clusters have their readers type, run as written: in order, in one namespace, with what it prints."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys

import page_runs
import pytest
from e2e_kit import CHART, RELEASE, SYSTEM, helm, make_namespace, wait_for
from whole import WHOLE

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(not WHOLE, reason="minutes, and installs Argosy anew: make test-pages"),
]
TIMEOUT_S = 400


@pytest.fixture(scope="module")
def reader(cluster, tmp_path_factory):
    """Runs a script as one types it: the context's namespace is his own, `argosy` is on his PATH, the chart is not installed."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("argosy", "kubectl-argosy"):
        program = folder / name
        program.write_text(f"#!{sys.executable}\nfrom argosy_cli.main import main\nmain()\n")
        program.chmod(0o755)
    kubectl = make_namespace(cluster)
    config = json.loads(cluster("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    config["contexts"][0]["context"]["namespace"] = kubectl.namespace
    (folder / "config").write_text(json.dumps(config))
    environment = os.environ | {
        "KUBECONFIG": str(folder / "config"),
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "ARGOSY_HOME": str(folder),
    }

    def run(script):
        script = re.sub(r"\bNAME\b", "smollm2", script).replace("-n team", f"-n {kubectl.namespace}")
        with (folder / "out").open("w+") as out:
            # a file, no pipe: what a page starts in the background keeps it open
            process = subprocess.Popen(
                ["bash", "-c", script], cwd=CHART.parents[1], env=environment, stdin=subprocess.DEVNULL,
                stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
            try:
                code = process.wait(TIMEOUT_S)
            finally:
                with contextlib.suppress(ProcessLookupError):  # nothing was left in the background
                    os.killpg(process.pid, signal.SIGKILL)
            out.seek(0)
            return code, out.read()

    if cluster.get("secrets", "--namespace", SYSTEM, f"--selector=owner=helm,name={RELEASE}"):
        helm("uninstall", RELEASE, "--namespace", SYSTEM, "--wait")
    run.kubectl = kubectl
    yield run
    kubectl("delete", "infd", "--all", "--ignore-not-found", "--timeout=120s", timeout=130)
    cluster("delete", "namespace", kubectl.namespace, "--wait=false")
    # as the other tests want it, and without what the pages have switched on
    helm("upgrade", RELEASE, str(CHART), "--namespace", SYSTEM, "--reset-values", timeout=300)
    for component in ("operator", "router"):
        cluster("rollout", "status", f"deployment/{RELEASE}-{component}", "-n", SYSTEM, "--timeout=120s", timeout=130)


@pytest.mark.timeout(TIMEOUT_S + 100)
@pytest.mark.parametrize(("page", "number"), page_runs.ON_A_CLUSTER, ids=lambda part: str(part).removeprefix("docs/"))
def test_it_does_what_the_page_says(reader, page, number):
    if page == "docs/several-nodes.md":  # there is no room for all of them at once
        reader.kubectl("delete", "hpa,infd", "--all", "--timeout=120s", timeout=130)
    script = page_runs.script(page, number)
    answers = []

    def told():
        answers.append(reader(script))
        return re.search(page_runs.ON_A_CLUSTER[page, number], answers[-1][1])

    try:
        # what only looks may be too early once
        wait_for("the page is right", told, 60 if script.startswith(("kubectl get", "argosy status")) else 0, 1)
    except AssertionError as error:
        raise AssertionError(f"{error}: exit code {answers[-1][0]}, and {answers[-1][1]}") from None
    assert answers[-1][0] == 0, answers[-1][1]
