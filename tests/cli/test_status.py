"""`argosy status`: sentences by condition, in a cluster and on this machine."""

import json
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from argosy_api.advice import ADVICE, advice
from argosy_api.errors import ModelError, every_error
from argosy_api.resource import API_VERSION, KIND
from argosy_cli import views
from argosy_cli.cluster import command
from argosy_cli.cluster.command import Where
from argosy_cli.cluster.explain import explain
from argosy_cli.embedded.states import ProcessState, ResourceState
from argosy_cli.errors import CommandError
from argosy_operator.autoscaling.decide import Why
from argosy_operator.diagnose import Reason

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
DOCS = Path(__file__).parents[2] / "docs"


def test_every_reason_has_an_advice():
    """Those of the operator, of autoscaling, and of workers."""
    known = {*Reason, *Why, *(kind.reason for kind in every_error(ModelError))}
    assert known <= set(ADVICE)


def test_every_reason_that_needs_somebody_is_in_the_docs():
    text = (DOCS / "troubleshooting.md").read_text()
    assert [reason for reason, todo in ADVICE.items() if todo and f"`{reason}`" not in text] == []


def condition(kind, status, reason, message="Because."):
    return {
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": "2026-01-01T11:53:00Z",
    }  # fmt: skip


def body(*conditions, **status):
    return {
        "apiVersion": API_VERSION, "kind": KIND,
        "metadata": {"name": "m", "namespace": "team", "generation": 3, "creationTimestamp": "2026-01-01T10:00:00Z"},
        "spec": {"model": {"uri": "sim://m"}},
        "status": {"observedGeneration": 3, "ready": "0/2", "reason": "InsufficientGpu", "conditions": list(conditions)} | status,
    }  # fmt: skip


def test_a_cause_is_told_once_with_what_to_do():
    lines = explain(
        body(
            condition("Scheduled", "False", "InsufficientGpu", "No node has nvidia.com/gpu to spare."),
            condition("Ready", "False", "InsufficientGpu", "0 of 2 workers serve. No node."),
            condition("ModelLoaded", "Unknown", "NotStarted", "No worker has come to the model."),
            condition("NameTaken", "False", "OwnName"),
        ),
        NOW,
    )
    assert lines == [
        "team/m: not ready, 0/2 workers serve (InsufficientGpu), for 7m.",
        "  Ready is False (InsufficientGpu): 0 of 2 workers serve. No node.",
        f"  What to do: {ADVICE['InsufficientGpu']}",
        "  Scheduled is False (InsufficientGpu): No node has nvidia.com/gpu to spare.",
        f"  What to do: {ADVICE['InsufficientGpu']}",
        "  ModelLoaded is Unknown (NotStarted): No worker has come to the model.",
        f"  What to do: {ADVICE['NotStarted']}",
    ]


def test_what_is_well_is_one_line_but_for_what_is_not():
    well = (condition("Ready", "True", "Ready"), condition("RouterSynced", "Unknown", "NotObserved"))
    assert explain(body(*well, ready="2/2"), NOW) == ["team/m: ready, 2/2 workers serve (Ready), for 7m."]
    taken = explain(body(*well, condition("NameTaken", "True", "NameTaken")), NOW)
    assert taken[1:] == ["  NameTaken is True (NameTaken): Because.", f"  What to do: {ADVICE['NameTaken']}"]


def test_an_operator_that_is_behind_or_away():
    assert (
        "generation 3, it is at 2" in explain(body(condition("Ready", "True", "Ready"), observedGeneration=2), NOW)[1]
    )
    assert "has said nothing" in explain({"metadata": {"name": "m"}}, NOW)[0]


def test_a_reason_of_a_newer_operator():
    assert "does not know the reason" in advice("FromTheFuture")


def test_kubectl_s_habits(monkeypatch, tmp_path):
    """Which path is asked for which options, and what is printed."""
    path = tmp_path / "config"
    contexts = [{"name": n, "context": {"cluster": "k", "namespace": n}} for n in ("team", "other")]
    clusters = [{"name": "k", "cluster": {"server": "http://nowhere"}}]
    path.write_text(yaml.safe_dump({"current-context": "team", "contexts": contexts, "clusters": clusters}))
    asked = []

    async def get(_access, where):
        asked.append(where.removeprefix(f"/apis/{API_VERSION}"))
        one = body(condition("Ready", "True", "Ready"), ready="2/2", reason="Ready")
        return one if where.endswith("/m") else {"items": [one]}

    monkeypatch.setattr(command, "_get", get)

    def run(name=None, output=None, **where):
        said = []
        command.status(name, Where(kubeconfig=str(path), **where), output, said.append)
        return said

    assert run("m")[0].startswith("team/m: ready, 2/2 workers serve (Ready), for ")
    header, line = run()
    assert header.split() == ["NAMESPACE", "NAME", "READY", "REASON", "AGE"]
    assert line.split()[:4] == ["team", "m", "2/2", "Ready"]
    assert run(everywhere=True, output="wide")[0].split()[5:] == ["MODEL", "COMPUTE", "LONGEST", "REVISION", "ENDPOINT"]
    assert json.loads(run("m", "json", namespace="x")[0])["kind"] == KIND
    assert yaml.safe_load(run("m", "yaml", context="other")[0])["kind"] == KIND
    assert asked == [
        "/namespaces/team/inferencedeployments/m", "/namespaces/team/inferencedeployments", "/inferencedeployments",
        "/namespaces/x/inferencedeployments/m", "/namespaces/other/inferencedeployments/m",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "path", "words"),
    [
        (404, "/x/inferencedeployments/m", "there is no InferenceDeployment m"),
        (404, "/x/inferencedeployments", "is Argosy installed"),
        (403, "/x/inferencedeployments", "the API server refuses: status 403: no"),
        (0, "/x/inferencedeployments", "cannot be asked: no"),
    ],
)
def test_what_the_api_server_refuses(status, path, words):
    assert words in command.refusal(command.WatchError(status, "no"), path)


def test_no_cluster(monkeypatch, tmp_path):
    with pytest.raises(Exception, match="no usable kubeconfig"):
        command.status(None, Where(kubeconfig=str(tmp_path / "none")), None, print)


def test_an_empty_namespace_is_told(monkeypatch, tmp_path):
    async def get(*_):
        return {"items": []}

    monkeypatch.setattr(command, "_get", get)
    path = tmp_path / "config"
    path.write_text(
        "{current-context: c, contexts: [{name: c, context: {cluster: k}}], clusters: [{name: k, cluster: {server: 'http://x'}}]}"
    )
    with pytest.raises(CommandError, match="no InferenceDeployment in namespace default"):
        command.status(None, Where(kubeconfig=str(path)), None, print)
    with pytest.raises(Exception, match="has no context 'd'"):
        command.status(None, Where(kubeconfig=str(path), context="d"), None, print)


def test_a_server_is_asked_over_http(tmp_path):
    """With the token of the kubeconfig; what it refuses is one line."""
    seen = []

    class Api(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.path, self.headers["Authorization"]))
            found = self.path.endswith("/m")
            raw = json.dumps(body(condition("Ready", "True", "Ready")) if found else {"message": "no"}).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        document = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "team"}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "clusters": [{"name": "k", "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}],
        }
        path = tmp_path / "config"
        path.write_text(yaml.safe_dump(document))
        where, said = Where(kubeconfig=str(path)), []
        command.status("m", where, None, said.append)
        assert said[0].startswith("team/m: ready")
        with pytest.raises(CommandError, match="there is no InferenceDeployment x"):
            command.status("x", where, None, said.append)
        assert seen[0] == (f"/apis/{API_VERSION}/namespaces/team/inferencedeployments/m", "Bearer t")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_on_this_machine():
    ready = ProcessState(name="m-0", phase="Ready")
    failed = ProcessState(name="m-1", phase="Failed", reason="ModelDoesNotFit", message="too large", retry_s=4)
    item = ResourceState(namespace="default", name="m", served_name="m", uri="sim://m", replicas=[ready, failed])
    assert views.explain_local(item) == [
        "m: not ready, 1 of 2 replicas serve.",
        "  m-1: ModelLoaded=False ModelDoesNotFit: too large; next start in 4 s",
        f"  What to do: {ADVICE['ModelDoesNotFit']}",
    ]


def test_which_options_mean_a_cluster(monkeypatch):
    assert not views.asks_cluster(Where(), None)
    assert views.asks_cluster(Where(namespace="n"), None)
    assert views.asks_cluster(Where(), "wide")
    monkeypatch.setattr("sys.argv", ["/usr/bin/kubectl-argosy"])
    assert views.asks_cluster(Where(), None)


def test_a_wrong_output_is_named():
    with pytest.raises(CommandError, match="-o xml is not known; it can: json, yaml, wide"):
        command.check_output("xml")
