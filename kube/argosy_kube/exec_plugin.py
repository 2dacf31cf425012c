"""Tokens from a program that a kubeconfig names: how EKS, GKE and AKS log in (client.authentication.k8s.io/v1).

The program is told about the cluster in KUBERNETES_EXEC_INFO and prints an ExecCredential. It runs when a token is
first needed, and again, in a thread, before that one expires: no request waits for it while a token is good.
"""

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, cast

from argosy_api.errors import InvalidArgumentError

VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
RUN_LIMIT_S = 60.0
AHEAD_S = 90.0
"""So long before its end a token is replaced."""
DEFAULT_LIFE_S = 600.0
"""Of a token that names no end."""
RETRY_S = 10.0
_MAX_WORDS = 300


class Credential(NamedTuple):
    """A bearer token, and when it ends (seconds since the epoch; None: unknown)."""

    token: str
    ends_at: float | None


class ExecPlugin:
    """The program, as a function that returns the present token."""

    def __init__(
        self,
        config: Mapping[str, Any],
        cluster: Mapping[str, Any],
        folder: Path,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`config` is a user's `exec`, `cluster` what the program may be told, `folder` where the kubeconfig lies.

        Raises:
            InvalidArgumentError: the configuration is not one that can be honoured.

        """
        version, command = config.get("apiVersion"), config.get("command")
        if version not in VERSIONS:
            raise _refused(f"its exec.apiVersion is {version!r}; must be {' or '.join(VERSIONS)}")
        if not isinstance(command, str) or not command:
            raise _refused("its exec.command is missing")
        if config.get("interactiveMode") == "Always":
            raise _refused(f"its program {command} wants to ask a person (interactiveMode: Always)")
        self._version, self._hint = version, str(config.get("installHint") or "")
        # a name is looked for on the PATH; anything with a slash is relative to the kubeconfig
        path = str(folder / command) if os.sep in command else command
        self._argv = [path, *(str(word) for word in config.get("args") or ())]
        spec: dict[str, Any] = {"interactive": False}
        if config.get("provideClusterInfo"):
            spec["cluster"] = dict(cluster)
        info = {"apiVersion": version, "kind": "ExecCredential", "spec": spec}
        given = {str(entry["name"]): str(entry["value"]) for entry in config.get("env") or ()}
        self._env = {**given, "KUBERNETES_EXEC_INFO": json.dumps(info)}
        self._clock = clock
        self._lock = threading.Lock()
        self._current: Credential | None = None
        self._renew_at = float("-inf")

    def __call__(self) -> str:
        """The present token.

        Raises:
            OSError: there is none that is still good, and the program gives no new one.

        """
        current, now = self._current, self._clock()
        if current is None or (current.ends_at is not None and now >= current.ends_at):
            with self._lock:
                if self._current is current:  # else another thread was here meanwhile
                    self._renew()
                return cast("Credential", self._current).token
        if now >= self._renew_at and not self._lock.locked():
            threading.Thread(target=self._renew_quietly, name="kubeconfig-exec", daemon=True).start()
        return current.token

    def _renew_quietly(self) -> None:
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._renew()
        except OSError:
            self._renew_at = self._clock() + RETRY_S  # the old one is still good
        finally:
            self._lock.release()

    def _renew(self) -> None:
        credential = parse(self._run(), self._version)
        self._current, now = credential, self._clock()
        life = DEFAULT_LIFE_S if credential.ends_at is None else credential.ends_at - now
        self._renew_at = now + max(life - AHEAD_S, life / 2)

    def _run(self) -> str:
        try:
            done = subprocess.run(  # noqa: S603 - the user's own kubeconfig says so, as it does to kubectl
                self._argv, env={**os.environ, **self._env}, stdin=subprocess.DEVNULL, capture_output=True,
                text=True, timeout=RUN_LIMIT_S, check=False,
            )  # fmt: skip
        except FileNotFoundError:
            raise OSError(f"{self._argv[0]} is not there. {self._hint}".strip()) from None
        except subprocess.TimeoutExpired:
            raise OSError(f"{self._argv[0]} did not end within {RUN_LIMIT_S:.0f} s") from None
        except ValueError as error:  # output that is no text
            raise OSError(f"{self._argv[0]}: {error}") from error
        if done.returncode:
            words = " ".join(done.stderr.split())[-_MAX_WORDS:]
            raise OSError(f"{self._argv[0]} ended with {done.returncode}: {words}")
        return done.stdout


def parse(text: str, version: str) -> Credential:
    """Read an ExecCredential.

    Raises:
        OSError: it is none, of another version, or has no token. The message shows nothing of it.

    """
    try:
        answer = json.loads(text)
        status = answer["status"]
        token, ends = status.get("token"), status.get("expirationTimestamp")
        ends_at = datetime.fromisoformat(ends).timestamp() if ends else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OSError(f"the program of the kubeconfig printed no ExecCredential ({type(error).__name__})") from None
    if answer.get("apiVersion") != version:
        raise OSError(f"the program of the kubeconfig answered in another version than {version}")
    if not isinstance(token, str) or not token:
        what = "a certificate" if status.get("clientCertificateData") else "no token"
        raise OSError(f"the program of the kubeconfig gave {what}; only tokens are understood")
    return Credential(token, ends_at)


def _refused(why: str) -> InvalidArgumentError:
    return InvalidArgumentError("KUBECONFIG", why)
