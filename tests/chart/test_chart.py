"""What the chart renders: schema, security, rights, names, and the values matrix in charts/argosy/ci."""

import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import kube_models
import pytest
import yaml
from rendered import POD_KINDS, env_of, one

from argosy_api import redis_acl
from argosy_api.crd import crd
from argosy_api.redis_urls import sentinels_of
from argosy_operator.manifests import PlanSettings
from argosy_operator.redis_access import check_url, worker_url
from argosy_operator.settings import from_environment

CHART = Path(__file__).resolve().parents[2] / "charts/argosy"
MATRIX = [(), *((path.name,) for path in sorted((CHART / "ci").glob("*-values.yaml")))]
IDS = [values[0].removesuffix("-values.yaml") if values else "defaults" for values in MATRIX]
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB+x/y==\n-----END CERTIFICATE-----"
API_KEYS = {"argosy-admin-key", "argosy-api-keys"}


def pods(objects):
    """Name and pod spec of everything that becomes pods."""
    for item in objects:
        if item["kind"] in POD_KINDS:
            yield f"{item['kind']}/{item['metadata']['name']}", item["spec"]["template"]["spec"]
        elif item["kind"] == "Pod":
            yield f"Pod/{item['metadata']['name']}", item["spec"]


@pytest.mark.parametrize("values", MATRIX, ids=IDS)
def test_lint_strict(helm, values):
    files = [word for value in values for word in ("--values", str(CHART / "ci" / value))]
    done = helm("lint", "--strict", str(CHART), *files)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("values", [*MATRIX, ("networkPolicy.enabled=true",)], ids=[*IDS, "policies"])
def test_every_object_is_what_kubernetes_defines(render, values):
    checked = [item for item in render(*values) if kube_models.is_built_in(item)]
    for item in checked:
        kube_models.check(item)
    assert {"Deployment", "Service", "Pod"} <= {item["kind"] for item in checked}


@pytest.mark.parametrize("values", MATRIX, ids=IDS)
def test_every_pod_passes_pod_security_restricted(render, values):
    found = dict(pods(render(*values)))
    assert {name.split("/")[0] for name in found} >= {"Deployment", "Pod"}
    for name, spec in found.items():
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            assert not spec.get(key), (name, key)
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for volume in spec.get("volumes", []):
            assert set(volume) - {"name"} <= {
                "emptyDir",
                "configMap",
                "secret",
                "projected",
                "persistentVolumeClaim",
            }, (name, volume)
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["capabilities"] == {"drop": ["ALL"]}, name
            assert security["runAsNonRoot"] is True, name
            assert security["readOnlyRootFilesystem"] is True, name
            assert not security.get("privileged"), name
            assert {"requests", "limits"} <= set(container["resources"]), name
            assert not any("hostPort" in port for port in container.get("ports", [])), name


@pytest.mark.parametrize("values", MATRIX, ids=IDS)
def test_rights_are_narrow(render, values):
    roles = [item for item in render(*values) if item["kind"] in ("Role", "ClusterRole")]
    assert roles
    for role in roles:
        for rule in role["rules"]:
            words = rule["apiGroups"] + rule["resources"] + rule["verbs"]
            assert not [word for word in words if "*" in word], (role["metadata"]["name"], rule)
            assert not rule.get("nonResourceURLs"), role
            if "secrets" in rule["resources"]:
                # one by name, to see whose it is (a patch answers with the whole Secret as well); none can be looked for
                assert not {"list", "watch"} & set(rule["verbs"]), rule


def test_the_router_may_only_read_resources_and_endpoint_slices(render):
    role = one(render(), "ClusterRole", "argosy-system-argosy-router")
    allowed = {
        (group, name, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for name in rule["resources"]
        for verb in rule["verbs"]
    }
    assert allowed == {
        (group, name, verb)
        for group, name in (("serving.argosy.dev", "inferencedeployments"), ("discovery.k8s.io", "endpointslices"))
        for verb in ("list", "watch")
    }


def test_only_operator_and_router_hold_a_token(render):
    for name, spec in pods(render()):
        has_account = name in ("Deployment/argosy-operator", "Deployment/argosy-router")
        assert ("serviceAccountName" in spec) == has_account, name
        assert spec.get("automountServiceAccountToken", True) == has_account, name


def test_watched_namespaces_take_roles_in_place_of_cluster_roles(render):
    objects = render("namespaced-values.yaml")
    assert not [item for item in objects if item["kind"].startswith("ClusterRole")]
    places = {
        (item["kind"], item["metadata"]["name"], item["metadata"]["namespace"])
        for item in objects
        if item["kind"] in ("Role", "RoleBinding")
    }
    assert places == {
        (kind, f"argosy-{component}", namespace)
        for kind in ("Role", "RoleBinding")
        for component in ("operator", "router")
        for namespace in ("team-a", "team-b")
    } | {(kind, "argosy-operator-lease", "argosy-system") for kind in ("Role", "RoleBinding")}
    for component in ("operator", "router"):
        container = one(objects, "Deployment", f"argosy-{component}")["spec"]["template"]["spec"]["containers"][0]
        assert env_of(container)["ARGOSY_WATCH_NAMESPACES"] == "team-a,team-b"


def test_several_operators_share_a_lease_that_they_may_write_and_no_other(render):
    operator = one(render("operator.replicas=3", "operator.leaderElection.seconds=20"), "Deployment", "argosy-operator")
    assert operator["spec"]["replicas"] == 3
    assert operator["spec"]["strategy"] == {"type": "Recreate"}  # one of an earlier version knows of no lease
    (container,) = operator["spec"]["template"]["spec"]["containers"]
    lease = from_environment({k: v for k, v in env_of(container).items() if k.startswith("ARGOSY_LEASE")}).lease
    assert (lease.namespace, lease.name, lease.duration_s) == ("argosy-system", "argosy-operator", 20)
    names = [variable["name"] for variable in container["env"]]
    assert names.index("POD_NAME") < names.index("POD_UID") < names.index("ARGOSY_IDENTITY")  # only so they are put in
    role = one(render(), "Role", "argosy-operator-lease")
    assert [(r["resources"], r.get("resourceNames"), r["verbs"]) for r in role["rules"]] == [
        (["leases"], None, ["create"]),
        (["leases"], [lease.name], ["get", "update"]),
    ]


def test_without_a_lease_there_is_one_operator(render):
    objects = render("operator.leaderElection.enabled=false")
    container = one(objects, "Deployment", "argosy-operator")["spec"]["template"]["spec"]["containers"][0]
    assert "ARGOSY_LEASE" not in env_of(container)
    assert not [i for i in objects if i["metadata"]["name"].endswith("-lease")]
    with pytest.raises(AssertionError, match="leaderElection"):
        render("operator.leaderElection.enabled=false", "operator.replicas=2")


def test_two_releases_in_two_namespaces_share_no_cluster_object(render):
    def cluster_objects(namespace):
        return {
            (i["kind"], i["metadata"]["name"])
            for i in render("crds.install=false", namespace=namespace)
            if i["kind"].startswith("Cluster")
        }

    assert not cluster_objects("one") & cluster_objects("two")


def test_the_definition_is_the_generated_one_and_is_kept(render):
    rendered = one(render(), "CustomResourceDefinition", "inferencedeployments.serving.argosy.dev")
    assert rendered["spec"] == crd()["spec"]
    assert rendered["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    committed = yaml.safe_load((CHART / "files/crds/inferencedeployments.yaml").read_text())
    assert committed == crd()


def test_the_definition_can_be_left_out_or_not_kept(render):
    assert not [i for i in render("crds.install=false") if i["kind"] == "CustomResourceDefinition"]
    dropped = one(render("crds.keep=false"), "CustomResourceDefinition", "inferencedeployments.serving.argosy.dev")
    assert "annotations" not in dropped["metadata"]


@pytest.mark.parametrize("values", MATRIX, ids=IDS)
def test_names_labels_and_selectors(render, values):
    objects = render(*values, release="a-release-name-that-is-quite-long-really-so-53-charsx")
    keys = [(i["apiVersion"], i["kind"], i["metadata"].get("namespace"), i["metadata"]["name"]) for i in objects]
    assert len(keys) == len(set(keys))
    for item in objects:
        assert len(item["metadata"]["name"]) <= 63 or item["kind"] == "CustomResourceDefinition", item["metadata"][
            "name"
        ]
        labels = item["metadata"].get("labels", {})
        assert all(len(str(value)) <= 63 for value in labels.values())
        if item["kind"] in POD_KINDS:
            selector = item["spec"]["selector"]["matchLabels"]
            assert set(selector) == {
                "app.kubernetes.io/name",
                "app.kubernetes.io/instance",
                "app.kubernetes.io/component",
            }
            assert selector.items() <= item["spec"]["template"]["metadata"]["labels"].items()
            assert len(item["metadata"]["name"]) <= 52, "pods and replica sets append to it"


def test_services_select_what_deployments_make(render):
    objects = render()
    templates = [item["spec"]["template"] for item in objects if item["kind"] == "Deployment"]
    services = [item for item in objects if item["kind"] == "Service"]
    assert {item["metadata"]["name"] for item in services} == {
        "argosy-router",
        "argosy-router-headless",
        "argosy-valkey",
    }
    for service in services:
        chosen = [t for t in templates if service["spec"]["selector"].items() <= t["metadata"]["labels"].items()]
        assert len(chosen) == 1, service["metadata"]["name"]
        offered = {port["name"] for port in chosen[0]["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= offered


def test_clients_reach_no_metrics(render):
    """The Service that may be a load balancer has the two ports of clients; metrics have one without an address."""
    client, inside = (one(render(), "Service", name)["spec"] for name in ("argosy-router", "argosy-router-headless"))
    assert {port["targetPort"] for port in client["ports"]} == {"http", "grpc"}
    assert [port["targetPort"] for port in inside["ports"]] == ["metrics"]
    assert (inside["clusterIP"], inside.get("type", "ClusterIP")) == ("None", "ClusterIP")
    operator = one(render(), "Deployment", "argosy-operator")["spec"]["template"]["spec"]["containers"][0]
    assert env_of(operator)["ARGOSY_ROUTER_STATUS_URL"].startswith(
        "http://argosy-router-headless.argosy-system.svc:8002/"
    )


def test_clients_find_the_router_by_both_families(render):
    assert one(render(), "Service", "argosy-router")["spec"]["ipFamilyPolicy"] == "PreferDualStack"
    chosen = render("router.service.ipFamilyPolicy=SingleStack")
    assert one(chosen, "Service", "argosy-router")["spec"]["ipFamilyPolicy"] == "SingleStack"


def test_images_that_resources_may_name(render):
    def allowed(objects):
        operator = one(objects, "Deployment", "argosy-operator")["spec"]["template"]["spec"]["containers"][0]
        return from_environment({"ARGOSY_ALLOWED_IMAGES": env_of(operator).get("ARGOSY_ALLOWED_IMAGES", "")})

    assert allowed(render()).allowed_images == ()
    chosen = render("worker.allowedImages={r.example/a/*,r.example/b:1}")
    assert allowed(chosen).allowed_images == ("r.example/a/*", "r.example/b:1")


def test_images_follow_registry_tag_and_digest(render, chart):
    version = yaml.safe_load((chart / "Chart.yaml").read_text())["appVersion"]

    def image(objects):
        return one(objects, "Deployment", "argosy-router")["spec"]["template"]["spec"]["containers"][0]["image"]

    assert image(render()) == f"localhost/argosy-router:{version}"
    assert image(render("image.registry=reg.example/x", "router.image.tag=v9")) == "reg.example/x/argosy-router:v9"
    digest = "sha256:" + "0" * 64
    assert image(render("router.image.tag=v9", f"router.image.digest={digest}")) == f"localhost/argosy-router@{digest}"
    assert image(render("image.registry=")) == f"argosy-router:{version}"


def test_one_version_everywhere(chart):
    import tomllib

    project = tomllib.loads((chart.parents[1] / "pyproject.toml").read_text())["project"]["version"]
    meta = yaml.safe_load((chart / "Chart.yaml").read_text())
    assert meta["version"] == meta["appVersion"] == project


@pytest.mark.parametrize(
    ("values", "secret", "key", "router_key"),
    [
        ((), "argosy-valkey", "url", "router-url"),
        (("redis.access=shared",), "argosy-valkey", "url", "url"),
        (("valkey.existingSecret=mine",), "mine", "url", "router-url"),
        (("valkey.enabled=false", "redis.url=rediss://u:p@host:6380/1"), "argosy-redis", "url", "router-url"),
        (("valkey.enabled=false", "redis.url=redis://host", "redis.access=shared"), "argosy-redis", "url", "url"),
        (
            ("valkey.enabled=false", "redis.existingSecret.name=mine", "redis.existingSecret.key=address"),
            "mine",
            "address",
            "router-url",
        ),
        (
            ("valkey.enabled=false", "redis.existingSecret.name=mine", "redis.existingSecret.routerKey=readers"),
            "mine",
            "url",
            "readers",
        ),
    ],
)
def test_operator_and_routers_read_different_urls_of_redis_from_a_secret(render, values, secret, key, router_key):
    objects = render(*values)
    operator, router = (
        env_of(one(objects, "Deployment", f"argosy-{c}")["spec"]["template"]["spec"]["containers"][0])
        for c in ("operator", "router")
    )
    assert operator["ARGOSY_REDIS_URL"] == {"secretKeyRef": {"name": secret, "key": key}}
    assert operator["ARGOSY_REDIS_ROUTER_URL"] == {"secretKeyRef": {"name": secret, "key": router_key}}
    assert operator["ARGOSY_REDIS_ACCESS"] == ("shared" if "redis.access=shared" in values else "perNamespace")
    assert router["ARGOSY_REDIS_URL"] == {"secretKeyRef": {"name": secret, "key": router_key}}
    assert "ARGOSY_REDIS_ROUTER_URL" not in router
    made = {item["metadata"]["name"] for item in objects if item["kind"] == "Secret"} - API_KEYS
    assert made == ({secret} if secret != "mine" else set())


@pytest.mark.parametrize(
    ("values", "host"),
    [
        ((), "argosy-valkey.argosy-system.svc:6379/0"),
        (("valkey.enabled=false", "redis.url=rediss://u:p@host:6380/1?ssl_cert_reqs=none"),
         "host:6380/1?ssl_cert_reqs=none"),
    ],
)  # fmt: skip
def test_the_routers_url_is_of_a_user_of_their_own(render, values, host):
    (secret,) = [i for i in render(*values) if i["kind"] == "Secret" and i["metadata"]["name"] not in API_KEYS]
    admin, router = (urlsplit(secret["stringData"][key]) for key in ("url", "router-url"))
    assert router.username == redis_acl.ROUTER
    assert router.password not in (None, "", admin.password)
    assert router.geturl().endswith("@" + host)
    assert admin.geturl().endswith("@" + host)


def test_sentinels_and_the_certificate_are_in_every_url(render):
    """Also in those that the operator derives for workers."""
    objects = render("sentinel-values.yaml")
    (secret,) = [i for i in objects if i["kind"] == "Secret" and i["metadata"]["name"] not in API_KEYS]
    hosts = tuple((f"sentinel-{i}.example", 26379) for i in range(3))
    for key in ("url", "router-url"):
        url = secret["stringData"][key]
        assert urlsplit(url).hostname == "mymaster"
        assert sentinels_of(url) == hosts
        assert check_url(url, key) == url
        assert sentinels_of(worker_url(url, "perNamespace", "default")) == hosts
    with_authority = render("sentinel-values.yaml", "redis.url=rediss://:p@m/0", "redis.ca=" + CERTIFICATE)
    (secret,) = [i for i in with_authority if i["kind"] == "Secret" and i["metadata"]["name"] not in API_KEYS]
    query = parse_qs(urlsplit(secret["stringData"]["url"]).query)
    assert query["ssl_ca_data"] == [CERTIFICATE]
    assert sentinels_of(secret["stringData"]["router-url"]) == hosts


def test_a_new_redis_url_replaces_the_pods_that_read_it(render):
    def sums(url):
        objects = render("valkey.enabled=false", f"redis.url={url}", "router.podAnnotations.note=yes")
        pods = [one(objects, "Deployment", f"argosy-{c}")["spec"]["template"] for c in ("operator", "router")]
        return [p["metadata"]["annotations"]["checksum/redis"] for p in pods]

    assert sums("redis://:a@host") == sums("redis://:a@host")
    assert not set(sums("redis://:a@host")) & set(sums("redis://:b@host"))


def test_without_redis_there_is_neither_secret_nor_variable(render):
    objects = render("valkey.enabled=false")
    assert {i["metadata"]["name"] for i in objects if i["kind"] == "Secret"} == API_KEYS
    assert not [i for i in objects if "valkey" in i["metadata"]["name"]]
    for component in ("operator", "router"):
        container = one(objects, "Deployment", f"argosy-{component}")["spec"]["template"]["spec"]["containers"][0]
        assert "ARGOSY_REDIS_URL" not in env_of(container)


def test_a_disruption_budget_only_with_more_than_one_router(render):
    budgets = lambda *values: [i["metadata"]["name"] for i in render(*values) if i["kind"] == "PodDisruptionBudget"]  # noqa: E731
    assert budgets() == []
    assert budgets("router.replicas=2") == ["argosy-router"]
    scaled = "router.autoscaling.enabled=true"
    assert budgets(scaled) == ["argosy-router"]
    assert budgets(scaled, "router.replicas=2", "router.autoscaling.minReplicas=1") == []


def test_the_number_of_routers_is_said_by_one_side_only(render):
    """What is left to an autoscaler is in no manifest: at the next upgrade it would take the number back."""
    plain, scaled = render("router.replicas=4"), render("router-autoscaling-values.yaml")
    assert one(plain, "Deployment", "argosy-router")["spec"]["replicas"] == 4
    assert not [item for item in plain if item["kind"] == "HorizontalPodAutoscaler"]
    assert "replicas" not in one(scaled, "Deployment", "argosy-router")["spec"]
    spec = one(scaled, "HorizontalPodAutoscaler", "argosy-router")["spec"]
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "argosy-router"}
    assert (spec["minReplicas"], spec["maxReplicas"]) == (3, 12)
    assert [metric["resource"]["name"] for metric in spec["metrics"]] == ["cpu", "memory"]
    assert spec["metrics"][0]["resource"]["target"] == {"type": "AverageValue", "averageValue": "500m"}
    assert spec["behavior"] == {"scaleDown": {"stabilizationWindowSeconds": 600}}


def test_routers_are_spread_over_nodes_or_as_told(render):
    def spread(*values):
        pod = one(render(*values), "Deployment", "argosy-router")["spec"]["template"]["spec"]
        return [(c["topologyKey"], c["whenUnsatisfiable"]) for c in pod["topologySpreadConstraints"]]

    assert spread() == [("kubernetes.io/hostname", "ScheduleAnyway")]
    assert spread("router-autoscaling-values.yaml") == [("topology.kubernetes.io/zone", "DoNotSchedule")]


@pytest.mark.parametrize("values", MATRIX, ids=IDS)
def test_no_service_with_an_outside_address_shows_metrics(render, values):
    services = {i["metadata"]["name"]: i["spec"] for i in render(*values) if i["kind"] == "Service"}
    outside = {name for name, spec in services.items() if spec.get("type", "ClusterIP") != "ClusterIP"}
    assert outside == (
        {"argosy-router"} if values in {("full-values.yaml",), ("load-balancer-values.yaml",)} else set()
    )
    for name in outside:
        assert {port["targetPort"] for port in services[name]["ports"]} == {"http", "grpc"}


def settings(values, path=()):
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from settings(value, (*path, key))
        else:
            yield (*path, key), value


def test_every_value_is_set_in_a_file_of_the_matrix(chart):
    """So that whatever is rendered of it is held against Kubernetes' types, Pod Security and the rest."""
    defaults = dict(settings(yaml.safe_load((chart / "values.yaml").read_text())))
    given = [yaml.safe_load((chart / "ci" / values[0]).read_text()) for values in MATRIX if values]

    def of(tree, path):
        for key in path:
            tree = tree.get(key) if isinstance(tree, dict) else None
        return tree

    never = [".".join(path) for path, value in defaults.items() if all(of(g, path) in (None, value) for g in given)]
    assert never == []


def test_the_router_has_time_to_drain(render):
    spec = one(render("router.drainSeconds=90"), "Deployment", "argosy-router")["spec"]
    pod = spec["template"]["spec"]
    pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert "--drain-seconds=90" in pod["containers"][0]["args"]
    assert pod["terminationGracePeriodSeconds"] > 90 + pause
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


@pytest.mark.parametrize("values", MATRIX, ids=IDS)
def test_a_lost_node_is_given_up_before_the_default_five_minutes(render, values):
    deployments = [item for item in render(*values) if item["kind"] == "Deployment"]
    assert deployments
    for item in deployments:
        tolerated = item["spec"]["template"]["spec"]["tolerations"]
        seconds = {t["key"]: t["tolerationSeconds"] for t in tolerated if t.get("key", "").startswith("node.")}
        limit = 60 if values == ("all-else-values.yaml",) else 30
        assert seconds == {"node.kubernetes.io/not-ready": limit, "node.kubernetes.io/unreachable": limit}
    (operator,) = [d for d in deployments if d["metadata"]["name"].endswith("-operator")]
    given = {"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}
    assert (given in operator["spec"]["template"]["spec"]["tolerations"]) == (values == ("full-values.yaml",))


def test_extras_are_off_by_default(render):
    kinds = {item["kind"] for item in render()}
    assert not kinds & {"NetworkPolicy", "PodMonitor", "ServiceMonitor", "PrometheusRule", "PodDisruptionBudget"}
    full = render("full-values.yaml")
    assert {"NetworkPolicy", "PodMonitor", "PrometheusRule", "PodDisruptionBudget"} <= {item["kind"] for item in full}
    assert {"argosy-extra", "argosy-text"} <= {i["metadata"]["name"] for i in full if i["kind"] == "ConfigMap"}


def leaves(values, schema, path=""):
    """Pairs of (path, schema or None) for every value in values.yaml."""
    definitions = json.loads((CHART / "values.schema.json").read_text())["definitions"]
    if schema and "$ref" in schema:
        schema = definitions[schema["$ref"].rsplit("/", 1)[-1]]
    yield path, schema
    if isinstance(values, dict) and schema is not None and "properties" in schema:
        for key, value in values.items():
            yield from leaves(value, schema["properties"].get(key), f"{path}.{key}".lstrip("."))


def test_every_value_is_in_the_schema_and_every_object_is_closed(chart):
    schema = json.loads((chart / "values.schema.json").read_text())
    values = yaml.safe_load((chart / "values.yaml").read_text())
    missing = [path for path, part in leaves(values, schema) if part is None]
    assert missing == []
    free = [
        p
        for p, part in leaves(values, schema)
        if part and part.get("type") == "object" and "additionalProperties" not in part
    ]
    assert free == []
    undocumented = set(schema["properties"]) - set(values) - {"global"}
    assert undocumented == set()


def test_what_is_printed_without_a_cluster_has_the_image_that_the_chart_gives(render):
    operator = one(render(), "Deployment", "argosy-operator")
    (container,) = operator["spec"]["template"]["spec"]["containers"]
    assert env_of(container)["ARGOSY_WORKER_IMAGE"] == PlanSettings().worker_image


@pytest.mark.parametrize(
    ("values", "routers", "workers"),
    [
        ((), None, {}),
        (("tracing.endpoint=http://c:4317",), "http://c:4317", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}),
        (
            ("tracing.endpoint=http://c:4317", "worker.env.OTEL_EXPORTER_OTLP_ENDPOINT=http://d:4317"),
            "http://c:4317",
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://d:4317"},
        ),
    ],
)
def test_routers_and_workers_are_told_of_a_collector(render, values, routers, workers):
    found = {}
    for document in render(*values):
        if document["kind"] == "Deployment":
            found |= env_of(document["spec"]["template"]["spec"]["containers"][0])
    assert found.get("OTEL_EXPORTER_OTLP_ENDPOINT") == routers
    assert json.loads(found.get("ARGOSY_WORKER_ENV", "{}")) == workers
