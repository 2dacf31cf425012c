"""How to reach the API server: the service account of the pod, or what KUBECONFIG names. Standard library and YAML."""

import base64
import os
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from argosy_api.errors import InvalidArgumentError
from argosy_kube.exec_plugin import ExecPlugin

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
IN_CLUSTER = "https://kubernetes.default.svc"
_NOT_UNDERSTOOD = {
    "proxy-url",
    "tls-server-name",
    "auth-provider",
    "as",
    "as-uid",
    "as-groups",
    "as-user-extra",
    "username",
}
TOKEN_AGE_S = 60.0
"""The kubelet replaces projected tokens long before they expire; the file is read again this often."""


class TokenFile:
    """A bearer token in a file that somebody replaces from time to time."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._token, self._read_at = "", float("-inf")

    def __call__(self) -> str:
        """The present token; the last one while the file cannot be read.

        Raises:
            OSError: it could never be read.

        """
        if self._clock() - self._read_at > TOKEN_AGE_S:
            try:
                self._token = self._path.read_text(encoding="utf-8").strip()
            except OSError:
                if not self._token:
                    raise
            self._read_at = self._clock()
        return self._token


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """One API server and our credentials for it."""

    server: str
    ca: bytes = field(default=b"", repr=False)
    """PEM; empty: the system's authorities."""
    certificate: str = ""
    """Path of our certificate, PEM."""
    key: str = field(default="", repr=False)
    """Path of its key, PEM."""
    token: Callable[[], str] | None = field(default=None, repr=False)
    insecure: bool = False
    namespace: str = "default"
    """What a context names, for commands that name none."""

    def headers(self) -> dict[str, str]:
        """What each request must carry; ask for each request anew."""
        return {} if self.token is None else {"Authorization": f"Bearer {self.token()}"}

    def ssl_context(self) -> ssl.SSLContext:
        """TLS settings for the server."""
        context = ssl.create_default_context(cadata=self.ca.decode() if self.ca else None)
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate:
            context.load_cert_chain(self.certificate, self.key or None)
        return context


def find(
    environment: Mapping[str, str] = os.environ, account: Path = SERVICE_ACCOUNT, *, context: str | None = None
) -> Access:
    """KUBECONFIG when it is set, else the pod's service account, else ~/.kube/config. `context`: not the current one.

    Raises:
        InvalidArgumentError: none of them is there, or the file is not what it should be.

    """
    named = environment.get("KUBECONFIG", "")
    if named:
        return from_kubeconfig(Path(named), context)
    if (account / "token").exists():
        authority = account / "ca.crt"
        return Access(
            server=IN_CLUSTER,
            ca=authority.read_bytes() if authority.exists() else b"",
            token=TokenFile(account / "token"),
        )
    default = Path(environment.get("HOME", "/")) / ".kube" / "config"
    if default.exists():
        return from_kubeconfig(default, context)
    raise InvalidArgumentError("KUBECONFIG", "is not set, and this is not a pod with a service account")


def from_kubeconfig(path: Path, context: str | None = None) -> Access:
    """The current or another context of a kubeconfig file: certificates, tokens, and programs that print tokens.

    Raises:
        InvalidArgumentError: the file is missing, broken, or wants what this cannot do.

    """
    try:
        return _read(path, context)
    except (OSError, KeyError, TypeError, ValueError, AttributeError, StopIteration, yaml.YAMLError) as error:
        # not the words of YAML errors: they quote the file
        why = str(error) if isinstance(error, OSError) else repr(error)
        raise InvalidArgumentError("KUBECONFIG", f"{path} is no usable kubeconfig: {why}") from error


def _read(path: Path, wanted: str | None) -> Access:
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if wanted is not None and wanted not in [item["name"] for item in config["contexts"]]:
        raise InvalidArgumentError("KUBECONFIG", f"{path} has no context {wanted!r}")
    context = _named(config, "contexts", wanted or config["current-context"])["context"]
    cluster = _named(config, "clusters", context["cluster"])["cluster"]
    user: Mapping[str, Any] = _named(config, "users", context["user"])["user"] if context.get("user") else {}
    for holder, part in ((cluster, "cluster"), (user, "user")):
        # to leave one of these out would talk to somebody else, or as somebody else, than the user wants
        if strange := sorted(_NOT_UNDERSTOOD & {name for name, value in holder.items() if value}):
            raise InvalidArgumentError("KUBECONFIG", f"its {part} has {strange[0]}, which is not understood")
    return Access(
        server=str(cluster["server"]),
        ca=_content(cluster, "certificate-authority", path),
        certificate=_file(user, "client-certificate", path),
        key=_file(user, "client-key", path),
        token=_token(user, cluster, path),
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
        namespace=str(context.get("namespace") or "default"),
    )


def _token(user: Mapping[str, Any], cluster: Mapping[str, Any], path: Path) -> Callable[[], str] | None:
    if user.get("tokenFile"):
        return TokenFile(path.parent / user["tokenFile"])
    if user.get("token"):
        token = str(user["token"])
        return lambda: token
    if not user.get("exec"):
        return None
    authority = _content(cluster, "certificate-authority", path)
    told = {
        "server": cluster["server"],
        "insecure-skip-tls-verify": bool(cluster.get("insecure-skip-tls-verify")),
        **({"certificate-authority-data": base64.b64encode(authority).decode()} if authority else {}),
    }
    plugin = ExecPlugin(user["exec"], told, path.parent)
    plugin()  # what is wrong with it is said now, and not by the first request
    return plugin


def _named(config: Mapping[str, Any], kind: str, name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(item for item in config[kind] if item["name"] == name)
    return found


def _content(holder: Mapping[str, Any], name: str, path: Path) -> bytes:
    if f"{name}-data" in holder:
        return base64.b64decode(holder[f"{name}-data"])
    return (path.parent / holder[name]).read_bytes() if name in holder else b""


def _file(holder: Mapping[str, Any], name: str, path: Path) -> str:
    if f"{name}-data" not in holder:
        return str(path.parent / holder[name]) if name in holder else ""
    # the ssl module reads certificates of one's own from files only: an anonymous one, that no other process can open
    descriptor = os.memfd_create("kubeconfig", os.MFD_CLOEXEC)
    os.write(descriptor, base64.b64decode(holder[f"{name}-data"]))
    return f"/proc/self/fd/{descriptor}"
