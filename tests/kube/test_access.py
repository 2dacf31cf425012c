"""How the API server is found, and who we are for it."""

import base64
import json
import os
import stat
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from argosy_api.errors import InvalidArgumentError
from argosy_kube import access as kube_access
from argosy_kube.access import TokenFile
from argosy_kube.exec_plugin import AHEAD_S, ExecPlugin, parse

V1 = "client.authentication.k8s.io/v1"


def kubeconfig(folder, **user):
    text = f"""
current-context: c
contexts: [{{name: c, context: {{cluster: k, user: u}}}}]
clusters: [{{name: k, cluster: {{server: "https://x:6443", certificate-authority-data: {base64.b64encode(b"PEM").decode()}}}}}]
users: [{{name: u, user: {user}}}]
"""
    path = folder / "config"
    path.write_text(text)
    return path


def test_a_kubeconfig(tmp_path):
    access = kube_access.find({"KUBECONFIG": str(kubeconfig(tmp_path, token="t"))})
    assert (access.server, access.ca, access.headers()) == ("https://x:6443", b"PEM", {"Authorization": "Bearer t"})
    assert "Bearer" not in repr(access)


def test_certificates_in_a_kubeconfig(tmp_path):
    data = {
        "client-certificate-data": base64.b64encode(b"CERT").decode(),
        "client-key-data": base64.b64encode(b"KEY").decode(),
    }
    access = kube_access.find({"KUBECONFIG": str(kubeconfig(tmp_path, **data))})
    for _ in range(2):  # Kopf and we read them, each anew
        assert (Path(access.certificate).read_bytes(), Path(access.key).read_bytes()) == (b"CERT", b"KEY")
    assert list(tmp_path.iterdir()) == [tmp_path / "config"]


@pytest.mark.parametrize("text", ["", "[]", "current-context: c", "{{{", "current-context: c\ncontexts: []\n"])
def test_a_broken_kubeconfig(tmp_path, text):
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(InvalidArgumentError, match="KUBECONFIG"):
        kube_access.find({"KUBECONFIG": str(path)})


def test_a_service_account(tmp_path):
    (tmp_path / "token").write_text("secret\n")
    access = kube_access.find({}, tmp_path)
    assert access.server == "https://kubernetes.default.svc"
    assert access.headers() == {"Authorization": "Bearer secret"}


def test_no_cluster(tmp_path):
    with pytest.raises(InvalidArgumentError, match="not set"):
        kube_access.find({"HOME": str(tmp_path)}, tmp_path)


def test_a_token_is_read_again(tmp_path):
    now = {"t": 0.0}
    path = tmp_path / "token"
    token = TokenFile(path, lambda: now["t"])
    with pytest.raises(OSError, match="No such file"):
        token()
    path.write_text("one")
    assert token() == "one"
    path.write_text("two")
    assert token() == "one"
    now["t"] = 61.0
    assert token() == "two"
    path.unlink()
    now["t"] = 122.0
    assert token() == "two"


# ------------------------------------------------------------------ programs that print tokens


class Program:
    """A program that counts its runs, keeps what it was told, and prints what `answer.json` holds."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "get-token"
        self.path.write_text(
            "#!/bin/sh\n"
            f'cd "{folder}"\n'
            'printf "%s\\n" "$*" >> runs\n'
            'printf "%s" "$KUBERNETES_EXEC_INFO" > told\n'
            'printf "%s" "$PROFILE" > profile\n'
            "if [ -e fail ]; then cat fail >&2; exit 3; fi\n"
            "cat answer.json\n"
        )
        self.path.chmod(self.path.stat().st_mode | stat.S_IXUSR)

    def gives(self, token: str = "one", ends_at: float | None = None, version: str = V1, **more) -> "Program":
        status = {"token": token, **more}
        if ends_at is not None:
            status["expirationTimestamp"] = datetime.fromtimestamp(ends_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        answer = {"apiVersion": version, "kind": "ExecCredential", "status": status}
        (self.folder / "answer.json").write_text(json.dumps(answer))
        return self

    @property
    def runs(self) -> list[str]:
        path = self.folder / "runs"
        return path.read_text().splitlines() if path.exists() else []

    def config(self, **more) -> dict:
        return {"apiVersion": V1, "command": str(self.path), **more}


@pytest.fixture
def program(tmp_path):
    return Program(tmp_path).gives()


def settle() -> None:
    """Wait for the threads that renew tokens."""
    for thread in threading.enumerate():
        if thread.name == "kubeconfig-exec":
            thread.join(30)


def test_a_program_logs_in(tmp_path, program):
    """As `aws eks update-kubeconfig` writes it."""
    config = program.config(
        args=["eks", "get-token", "--cluster-name", "x y"], env=[{"name": "PROFILE", "value": "work"}],
        interactiveMode="IfAvailable", provideClusterInfo=True,
    )  # fmt: skip
    access = kube_access.find({"KUBECONFIG": str(kubeconfig(tmp_path, exec=config))})
    assert access.headers() == {"Authorization": "Bearer one"}
    assert access.headers() == {"Authorization": "Bearer one"}
    assert program.runs == ["eks get-token --cluster-name x y"]
    assert (tmp_path / "profile").read_text() == "work"
    told = json.loads((tmp_path / "told").read_text())
    assert (told["apiVersion"], told["kind"], told["spec"]["interactive"]) == (V1, "ExecCredential", False)
    assert told["spec"]["cluster"] == {
        "server": "https://x:6443",
        "insecure-skip-tls-verify": False,
        "certificate-authority-data": base64.b64encode(b"PEM").decode(),
    }
    assert "one" not in repr(access)


def test_a_program_beside_the_kubeconfig_and_one_on_the_path(tmp_path, program, monkeypatch):
    assert ExecPlugin({"apiVersion": V1, "command": "./get-token"}, {}, tmp_path)() == "one"
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert ExecPlugin({"apiVersion": V1, "command": "get-token"}, {}, Path("/nowhere"))() == "one"
    assert "cluster" not in json.loads((tmp_path / "told").read_text())["spec"]


def test_a_token_is_renewed_before_its_end_and_no_request_waits(tmp_path, program):
    now = {"t": 1_000_000.0}
    program.gives("one", now["t"] + 900)
    plugin = ExecPlugin(program.config(), {}, tmp_path, lambda: now["t"])
    assert plugin() == "one"
    program.gives("two", now["t"] + 1800)
    now["t"] += 900 - AHEAD_S - 1
    assert (plugin(), len(program.runs)) == ("one", 1)
    now["t"] += 2
    assert plugin() == "one"  # still good; the new one is fetched meanwhile
    settle()
    assert (plugin(), len(program.runs)) == ("two", 2)


def test_an_ended_token_is_never_used(tmp_path, program):
    now = {"t": 1_000_000.0}
    program.gives("one", now["t"] + 900)
    plugin = ExecPlugin(program.config(), {}, tmp_path, lambda: now["t"])
    plugin()
    program.gives("two", now["t"] + 5000)
    now["t"] += 901
    assert plugin() == "two"


def test_a_program_that_fails_while_the_token_is_good_harms_nobody(tmp_path, program):
    now = {"t": 1_000_000.0}
    program.gives("one", now["t"] + 900)
    plugin = ExecPlugin(program.config(), {}, tmp_path, lambda: now["t"])
    plugin()
    (tmp_path / "fail").write_text("session expired:\nlog in again")
    now["t"] += 850
    assert plugin() == "one"
    settle()
    assert plugin() == "one"
    assert len(program.runs) == 2  # and it is not asked again at once
    now["t"] += 51
    with pytest.raises(OSError, match="ended with 3: session expired: log in again"):
        plugin()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"apiVersion": "client.authentication.k8s.io/v1alpha1", "command": "x"}, "apiVersion"),
        ({"apiVersion": V1}, "command"),
        ({"apiVersion": V1, "command": "x", "interactiveMode": "Always"}, "ask a person"),
        (
            {"apiVersion": V1, "command": "/is/not/there", "installHint": "Get it from the shop."},
            "Get it from the shop",
        ),
        ({"apiVersion": V1, "command": "false"}, "ended with 1"),
        ({"apiVersion": V1, "command": "true"}, "no ExecCredential"),
        ({"apiVersion": V1, "command": "x", "env": [{"name": "A"}]}, "no usable kubeconfig"),
    ],
)
def test_a_program_that_cannot_log_in_is_named(tmp_path, config, message):
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        kube_access.find({"KUBECONFIG": str(kubeconfig(tmp_path, exec=config))})
    assert "KUBECONFIG" in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"apiVersion": V1 + "beta1", "status": {"token": "s3cret"}}, "another version"),
        ({"apiVersion": V1, "status": {}}, "no token"),
        ({"apiVersion": V1, "status": {"clientCertificateData": "s3cret", "clientKeyData": "s3cret"}}, "a certificate"),
        ({"apiVersion": V1, "status": {"token": "s3cret", "expirationTimestamp": "soon"}}, "no ExecCredential"),
        ({"apiVersion": V1, "status": "s3cret"}, "no ExecCredential"),
        (["s3cret"], "no ExecCredential"),
    ],
)
def test_what_is_no_credential_is_refused_and_never_shown(answer, message):
    with pytest.raises(OSError, match=message) as caught:
        parse(json.dumps(answer), V1)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("user", "named"),
    [({"as": "root", "token": "t"}, "as"), ({"auth-provider": {"name": "gcp"}}, "auth-provider"),
     ({"username": "u", "password": "p"}, "username")],
)  # fmt: skip
def test_what_is_not_understood_is_not_ignored(tmp_path, user, named):
    with pytest.raises(InvalidArgumentError, match=f"has {named},"):
        kube_access.find({"KUBECONFIG": str(kubeconfig(tmp_path, **user))})


def test_a_missing_authority_is_an_error_with_its_name(tmp_path):
    path = tmp_path / "config"
    path.write_text(
        "current-context: c\ncontexts: [{name: c, context: {cluster: k}}]\n"
        'clusters: [{name: k, cluster: {server: "https://x", certificate-authority: gone.pem}}]\n'
    )
    with pytest.raises(InvalidArgumentError, match=r"gone\.pem"):
        kube_access.find({"KUBECONFIG": str(path)})
