"""Who asks: the API server speaks for its users, says who they are in headers, and proves itself by a certificate.

Source: https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multidict import MultiMapping

from argosy_api.errors import UnauthenticatedError

CONFIG_PATH = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontProxy:
    """How an API server that passes requests on is known, and where it says for whom. As the ConfigMap has it."""

    authority: str
    """PEM of who signs its certificates."""
    allowed_names: tuple[str, ...] = ()
    """Common names that it may have; none: any that the authority signed."""
    user_headers: tuple[str, ...] = ("X-Remote-User",)
    uid_headers: tuple[str, ...] = ()
    group_headers: tuple[str, ...] = ("X-Remote-Group",)
    extra_prefixes: tuple[str, ...] = ("X-Remote-Extra-",)

    @classmethod
    def from_config_map(cls, body: Mapping[str, Any]) -> "FrontProxy":
        """Read `extension-apiserver-authentication` of kube-system.

        Raises:
            ValueError: this cluster has no aggregation layer, or the object is broken.

        """
        data = body.get("data") or {}
        authority = data.get("requestheader-client-ca-file")
        if not authority:
            raise ValueError(
                "the cluster's aggregation layer is not configured: kube-apiserver runs without "
                "--requestheader-client-ca-file"
            )
        return cls(
            authority=str(authority),
            allowed_names=_list(data, "requestheader-allowed-names"),
            user_headers=_list(data, "requestheader-username-headers"),
            uid_headers=_list(data, "requestheader-uid-headers"),
            group_headers=_list(data, "requestheader-group-headers"),
            extra_prefixes=_list(data, "requestheader-extra-headers-prefix"),
        )


@dataclass(frozen=True, slots=True)
class Caller:
    """A user as the API server knows him."""

    user: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


def caller(proxy: FrontProxy, certificate: Mapping[str, Any] | None, headers: MultiMapping[str]) -> Caller:
    """For whom a request is. `certificate`: the peer's, as the ssl module tells it, verified by the authority.

    Raises:
        UnauthenticatedError: it does not come from the API server, or names nobody.

    """
    names = _common_names(certificate or {})
    if not names:
        raise UnauthenticatedError("no client certificate: only the API server is answered here")
    if proxy.allowed_names and not names & set(proxy.allowed_names):
        raise UnauthenticatedError("the client certificate is not one of the API server's")
    user = _first(headers, proxy.user_headers)
    if not user:
        raise UnauthenticatedError("the request does not say for which user it is")
    groups = tuple(g for name in proxy.group_headers for g in headers.getall(name, ()))
    return Caller(user, _first(headers, proxy.uid_headers), groups, _extra(headers, proxy.extra_prefixes))


def _first(headers: MultiMapping[str], names: Sequence[str]) -> str:
    return next((v for name in names for v in headers.getall(name, ()) if v), "")


def _extra(headers: MultiMapping[str], prefixes: Sequence[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    found: dict[str, tuple[str, ...]] = {}
    for name in dict.fromkeys(str(key).lower() for key in headers.keys()):  # noqa: SIM118 - not a dict
        for prefix in prefixes:
            if name.startswith(prefix.lower()) and len(name) > len(prefix):
                found[name[len(prefix) :]] = tuple(headers.getall(name, ()))
    return tuple(found.items())


def _common_names(certificate: Mapping[str, Any]) -> set[str]:
    subject = certificate.get("subject", ())
    return {value for part in subject for key, value in part if key == "commonName"}


def _list(data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = json.loads(data.get(key) or "[]")
    if not isinstance(found, list) or not all(isinstance(part, str) for part in found):
        raise ValueError(f"{key} is no list of strings")
    return tuple(found)
