"""TLS of the routers' ports: files are mounted where the routers are told to look, and nobody else needs a certificate."""

import pytest
from rendered import one

from argosy_router.settings import parse


def router(objects):
    spec = one(objects, "Deployment", "argosy-router")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    return spec, container, parse([str(a) for a in container["args"]], {})


def protocols(objects, name):
    return {port["name"]: port["appProtocol"] for port in one(objects, "Service", name)["spec"]["ports"]}


def test_by_default_there_is_none(render):
    objects = render()
    spec, _, settings = router(objects)
    assert (settings.tls, settings.tls_clients, settings.picker_tls, settings.picker_tls_clients) == (None,) * 4
    assert not [v for v in spec["volumes"] if "tls" in v["name"]]
    assert protocols(objects, "argosy-router") == {"http": "http", "grpc": "kubernetes.io/h2c"}


def test_every_file_is_where_the_router_looks_for_it(render):
    objects = render("tls-values.yaml")
    spec, container, settings = router(objects)
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    secrets = {v["name"]: v["secret"] for v in spec["volumes"] if "secret" in v}
    assert {name: secret["secretName"] for name, secret in secrets.items()} == {
        "tls": "router-tls", "tls-clients": "client-authority",
        "picker-tls": "picker-tls", "picker-tls-clients": "gateway-authority",
    }  # fmt: skip
    assert settings.tls == mounts["tls"]
    assert settings.tls_clients == mounts["tls-clients"] + "/ca.crt"
    assert settings.picker_tls == mounts["picker-tls"]
    assert settings.picker_tls_clients == mounts["picker-tls-clients"] + "/ca.crt"
    for name in ("tls-clients", "picker-tls-clients"):  # of an authority's Secret the key may be there, too
        assert secrets[name]["items"] == [{"key": "ca.crt", "path": "ca.crt"}]
    assert not [m for m in container["volumeMounts"] if "subPath" in m], "those would never change"
    assert protocols(objects, "argosy-router") == {"http": "https", "grpc": "https"}
    assert protocols(objects, "argosy-router-picker") == {"picker": "https"}


@pytest.mark.parametrize("values", [(), ("tls-values.yaml",)])
def test_probes_need_no_certificate(render, values):
    _, container, _ = router(render(*values))
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == "metrics"


@pytest.mark.parametrize(
    ("values", "arguments"),
    [
        ((), ["http://argosy-router:8000"]),
        (("router.tls.secretName=x",), ["https://argosy-router:8000"]),
        (("tls-values.yaml",), ["http://argosy-router-headless:8002", "ready"]),
    ],
)
def test_helm_test_asks_what_it_can(render, values, arguments):
    (container,) = one(render(*values), "Pod", "argosy-test")["spec"]["containers"]
    assert container["args"] == arguments


@pytest.mark.parametrize(
    "values",
    ["router.tls.clientCASecretName=x", "router.picker.tls.secretName=x", "router.picker.tls.clientCASecretName=x"],
)
def test_half_of_what_is_needed_is_refused(helm, chart, values):
    done = helm("template", "argosy", str(chart), "--kube-version", "1.34", "--set", values)
    assert done.returncode != 0
    assert values.partition("=")[0] + " needs" in done.stderr
