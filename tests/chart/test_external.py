"""What the chart makes so that other autoscalers are answered: exactly that, and only when it is asked for."""

import pytest

from argosy_operator.settings import ExternalMetrics, from_environment

NAME = "argosy-external-metrics"
GROUP = "v1beta1.external.metrics.k8s.io"


def one(objects, kind, name):
    (found,) = [item for item in objects if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    return found


def operator(objects):
    (container,) = one(objects, "Deployment", "argosy-operator")["spec"]["template"]["spec"]["containers"]
    given = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    settings = {name: value for name, value in given.items() if name.startswith("ARGOSY_") and "$(" not in value}
    return from_environment(settings), {port["name"]: port["containerPort"] for port in container["ports"]}


def test_by_default_there_is_nothing_of_it(render):
    objects = render()
    settings, ports = operator(objects)
    assert (settings.external_metrics, settings.keda_port) == (None, None)
    assert set(ports) == {"metrics"}
    assert not [i for i in objects if i["kind"] == "APIService" or "external" in i["metadata"]["name"]]


def test_the_api_service_leads_to_the_port_that_the_operator_serves(render):
    objects = render("externalMetrics.enabled=true")
    spec = one(objects, "APIService", GROUP)["spec"]
    assert spec["service"] == {"name": NAME, "namespace": "argosy-system", "port": 443}
    assert not {"insecureSkipTLSVerify", "caBundle"} & set(spec)  # the operator says whom to trust
    settings, ports = operator(objects)
    assert settings.external_metrics == ExternalMetrics(
        namespace="argosy-system", service=NAME, secret=NAME, port=ports["external"]
    )
    service = one(objects, "Service", NAME)["spec"]
    labels = one(objects, "Deployment", "argosy-operator")["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    assert [(port["port"], port["targetPort"]) for port in service["ports"]] == [(443, "external")]
    secret = one(objects, "Secret", NAME)
    assert not {"data", "stringData"} & set(secret)  # an upgrade leaves what the operator wrote


@pytest.mark.parametrize("values", [(), ("watchNamespaces={a}",)])
def test_rights_are_to_these_objects_by_name_and_to_ask(render, values):
    objects = render("externalMetrics.enabled=true", *values)
    wide = f"argosy-system-{NAME}"
    granted = {
        (role["metadata"].get("namespace"), group, kind, tuple(rule.get("resourceNames", ())), verb)
        for role in (one(objects, "Role", NAME), one(objects, "Role", wide), one(objects, "ClusterRole", wide))
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for kind in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == {
        ("argosy-system", "", "secrets", (NAME,), "get"),
        ("argosy-system", "", "secrets", (NAME,), "update"),
        ("kube-system", "", "configmaps", ("extension-apiserver-authentication",), "get"),
        (None, "apiregistration.k8s.io", "apiservices", (GROUP,), "get"),
        (None, "apiregistration.k8s.io", "apiservices", (GROUP,), "update"),
        (None, "authorization.k8s.io", "subjectaccessreviews", (), "create"),
    }
    bindings = [i for i in objects if i["kind"].endswith("Binding") and NAME in i["metadata"]["name"]]
    assert len(bindings) == 3
    for binding in bindings:
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": "argosy-operator", "namespace": "argosy-system"}
        ]
        assert one(objects, binding["roleRef"]["kind"], binding["roleRef"]["name"])


def test_keda_finds_the_scaler(render):
    objects = render("kedaScaler.enabled=true")
    settings, ports = operator(objects)
    assert settings.keda_port == ports["keda"] == 8444
    service = one(objects, "Service", "argosy-keda-scaler")["spec"]
    assert [(port["port"], port["targetPort"]) for port in service["ports"]] == [(8444, "keda")]
    assert not [i for i in objects if i["kind"] == "APIService"]


def test_one_cluster_has_one_provider(render):
    with pytest.raises(AssertionError, match="KEDA itself provides external"):
        render("externalMetrics.enabled=true", "kedaScaler.enabled=true")


def test_policies_let_in_the_api_server_and_keda(render):
    def ingress(*values):
        policy = one(render("networkPolicy.enabled=true", *values), "NetworkPolicy", "argosy-operator")
        return {rule["ports"][0]["port"]: rule.get("from") for rule in policy["spec"]["ingress"]}

    assert set(ingress()) == {8002}
    assert ingress("externalMetrics.enabled=true")[8443] is None  # it has no address that a policy could name
    (keda,) = ingress("kedaScaler.enabled=true")[8444]
    assert keda == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}}
