"""The NetworkPolicy of a resource's workers: who may reach them, and what they may reach. Pure.

Policies know no host names. So where workers go is bounded by port, and by peers that the installation names.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from argosy_api import labels, process
from argosy_api.model_uri import ModelUri
from argosy_api.redis_urls import sentinels_of
from argosy_api.resource import InferenceDeployment

Manifest = dict[str, Any]
Peers = tuple[Manifest, ...]
_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
_USUAL = {"redis": 6379, "rediss": 6379, "http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Egress:
    """Peers of a NetworkPolicy that workers may go to; none: anywhere, on those ports."""

    dns: Peers = ()
    redis: Peers = ()
    downloads: Peers = ()
    """Where hf:// models come from."""


def rules_in(resource: InferenceDeployment, installed: Iterable[Manifest], *, grouped: bool) -> list[Manifest]:
    """Who may reach the workers: those of the installation, and they each other."""
    return [*installed, _each_other(resource, "from", grouped=grouped)]


def rules_out(
    resource: InferenceDeployment, allowed: Egress, *, redis_url: str, env: Mapping[str, str], grouped: bool
) -> list[Manifest]:
    """What the workers may reach: names, Redis, each other, and the hub where a model or an adapter is downloaded."""
    rules = [_rule(allowed.dns, {53}, "UDP", "TCP"), _each_other(resource, "to", grouped=grouped)]
    if redis_url:
        sentinels = {port for _, port in sentinels_of(redis_url)}
        rules.append(_rule(allowed.redis, {_port(redis_url), *sentinels}))
    adapters = (ModelUri.parse(adapter.uri) for adapter in resource.spec.adapters)
    if any(uri.scheme == "hf" for uri in (*resource.model_uris, *adapters)):
        rules.append(_rule(allowed.downloads, _download_ports(env)))
    return rules


def _each_other(resource: InferenceDeployment, way: str, *, grouped: bool) -> Manifest:
    """Workers of one resource fetch blocks of the KV cache from each other. Those of a group connect on any ports."""
    others: Manifest = {way: [{"podSelector": {"matchLabels": {labels.NAME: resource.metadata.name}}}]}
    return others if grouped else others | {"ports": [{"port": labels.GRPC_PORT, "protocol": "TCP"}]}


def _rule(peers: Peers, ports: set[int], *protocols: str) -> Manifest:
    rule: Manifest = {"ports": [{"port": p, "protocol": name} for p in sorted(ports) for name in protocols or ("TCP",)]}
    return rule | ({"to": list(peers)} if peers else {})


def _download_ports(env: Mapping[str, str]) -> set[int]:
    """443, for a hub sends on to other hosts; and that of another hub, and of proxies."""
    named = (env.get(name) or env.get(name.lower()) or "" for name in (process.HF_ENDPOINT, *_PROXIES))
    return {443, *(_port(url) for url in named if url)}


def _port(url: str) -> int:
    """Of an address that was checked, or that a person wrote; 443 where it cannot be read."""
    try:
        parts = urlsplit(url)
        return parts.port or _USUAL.get(parts.scheme, 443)
    except ValueError:
        return 443
