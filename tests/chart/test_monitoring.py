"""Alerts and dashboards ask for series that Argosy has, by labels that these have; monitors find the pods."""

import itertools
import json
import re
from types import SimpleNamespace

import pytest
import yaml

from argosy_api import labels, limits
from argosy_operator.metrics import Metrics as OperatorMetrics
from argosy_router.metrics import Metrics as RouterMetrics
from argosy_worker.engine.metrics import WorkerMetrics
from argosy_worker.engine.report import LoadView

TARGET = {"namespace", "pod"}  # what Prometheus adds to each series of a pod
SUFFIXES = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
SERIES = re.compile(r"\b(argosy_\w+)(?:\{([^}]*)\})?")
KEPT = re.compile(r"\b(?:by|on) \(([^)]*)\)")


def series():
    """Labels of each series by its name, from the very objects that the processes expose."""
    worker = WorkerMetrics(model="m", worker="w")
    worker.watch(SimpleNamespace(last_step_age=0.0, view=LoadView()), block_size=16)
    found = {}
    for registry in (OperatorMetrics().registry, RouterMetrics().registry, worker.registry):
        for metric in registry._collector_to_names:
            if not hasattr(metric, "_labelnames"):
                continue  # Python's own, of the process
            (family,) = metric.describe()
            for suffix in SUFFIXES[family.type]:
                found[family.name + suffix] = set(metric._labelnames) | ({"le"} if suffix == "_bucket" else set())
    return found


KNOWN = series()


def problems(expression):
    """What is wrong with a PromQL expression, as far as names go."""
    asked = SERIES.findall(expression)
    if not asked:
        yield "asks for nothing"
    for opening, closing in ("()", "{}", "[]"):
        if expression.count(opening) != expression.count(closing):
            yield f"{opening} and {closing} do not match"
    known = set(TARGET)
    for name, matchers in asked:
        if name not in KNOWN:
            yield f"there is no {name}"
            continue
        known |= KNOWN[name]
        for label in re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", matchers):
            if label not in KNOWN[name] | TARGET:
                yield f"{name} has no label {label}"
    for text in KEPT.findall(expression):
        for label in text.split(","):
            if label.strip() not in known:
                yield f"no series there has the label {label.strip()}"
    for name in re.findall(r"\brate\(\s*(\w+)", expression):
        if not name.endswith(("_total", "_bucket", "_sum", "_count")):
            yield f"{name} is no counter, so it has no rate"
    for inner in re.findall(r"histogram_quantile\([\d.]+, sum by \(([^)]*)\)", expression):
        if "le" not in [label.strip() for label in inner.split(",")]:
            yield "a quantile of a histogram without le"


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("argosy_router_request > 0", "there is no argosy_router_request"),
        ("increase(argosy_router_requests[5m])", "there is no argosy_router_requests"),
        ('argosy_router_workers{status="ready"}', "argosy_router_workers has no label status"),
        ("sum by (worker) (argosy_router_workers)", "no series there has the label worker"),
        ("rate(argosy_router_workers[5m])", "argosy_router_workers is no counter, so it has no rate"),
        ("sum(argosy_router_workers", "( and ) do not match"),
        ("vector(1)", "asks for nothing"),
    ],
)
def test_wrong_expressions_are_noticed(expression, problem):
    assert list(problems(expression)) == [problem]


def rule(objects):
    (found,) = [item for item in objects if item["kind"] == "PrometheusRule"]
    (group,) = found["spec"]["groups"]
    return {entry["alert"]: entry for entry in group["rules"]}


ALL = ("metrics.prometheusRule.enabled=true", "metrics.prometheusRule.firstTokenSeconds=2")


def test_alerts_ask_for_what_there_is(render):
    alerts = rule(render(*ALL))
    assert [(name, p) for name, alert in alerts.items() for p in problems(alert["expr"])] == []
    for name, alert in alerts.items():
        assert re.fullmatch(r"\d+m", alert["for"]), name
        assert alert["labels"]["severity"] in ("critical", "warning", "info"), name
        # labels that the summary names are there when the expression has been evaluated
        kept = KEPT.findall(alert["expr"])
        left = {label.strip() for label in kept[0].split(",")} if kept else TARGET.union(
            *(KNOWN[metric] for metric, _ in SERIES.findall(alert["expr"]))
        )  # fmt: skip
        assert set(re.findall(r"\$labels\.(\w+)", alert["annotations"]["summary"])) <= left, name


def test_alerts_follow_what_is_set(render):
    alerts = rule(render("monitoring-values.yaml"))
    assert "ArgosyPreemptions" not in alerts
    assert alerts["ArgosyErrors"]["expr"].endswith("> 0.01")
    assert alerts["ArgosySlowFirstToken"]["expr"].endswith("> 2.5")
    assert {a["annotations"]["runbook_url"] for a in alerts.values()} == {"https://runbooks.example/argosy"}
    assert "ArgosySlowFirstToken" not in rule(render("metrics.prometheusRule.enabled=true"))


def test_alerts_about_redis_only_where_there_is_one(render):
    """A router without Redis says 0, as one that does not reach it."""
    redis = lambda *values: {a for a in rule(render(*ALL, *values)) if "Redis" in a}  # noqa: E731
    assert redis() == {"ArgosyRedisDown", "ArgosyRedisUsers"}
    assert redis("redis.access=shared") == {"ArgosyRedisDown"}
    assert redis("valkey.enabled=false") == set()


def test_an_alert_that_is_not_there_cannot_be_disabled(helm, chart):
    name = "metrics.prometheusRule.disabled={ArgosyTypo}"
    done = helm("template", "argosy", str(chart), "--kube-version", "1.34", "--set", ALL[0], "--set", name)
    assert done.returncode != 0
    assert "ArgosyTypo" in done.stderr
    assert "ArgosyErrors" in done.stderr


def test_the_operations_page_tells_of_every_alert(render, chart):
    page = (chart.parents[1] / "docs/operations.md").read_text()
    assert [name for name in rule(render(*ALL)) if f"`{name}`" not in page] == []


def test_the_alert_about_memory_knows_the_limit(render):
    assert f"> 0.9 * {limits.MAX_HELD_BYTES >> 20} * 1024 * 1024" in rule(render(*ALL))["ArgosyRouterFull"]["expr"]


@pytest.fixture(scope="session")
def dashboards(render):
    """What Grafana reads, by file name."""
    maps = [i for i in render("metrics.dashboards.enabled=true") if "-dashboard-" in i["metadata"]["name"]]
    assert {item["kind"] for item in maps} == {"ConfigMap"}
    assert {item["metadata"]["labels"]["grafana_dashboard"] for item in maps} == {"1"}
    texts = {name: text for item in maps for name, text in item["data"].items()}
    assert sorted(texts) == ["argosy-operator.json", "argosy-requests.json", "argosy-workers.json"]
    return {name: json.loads(text) for name, text in texts.items()}


def graphs(dashboard):
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def test_dashboards_ask_for_what_there_is(dashboards):
    wrong = []
    for name, dashboard in dashboards.items():
        for panel in graphs(dashboard):
            assert panel["targets"], panel["title"]
            for target in panel["targets"]:
                plain = target["expr"].replace("$__rate_interval", "5m")
                wrong += [(name, panel["title"], problem) for problem in problems(plain)]
                kept = {label.strip() for text in KEPT.findall(plain) for label in text.split(",")}
                assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= kept, panel["title"]
    assert wrong == []


def test_dashboards_define_the_variables_that_they_use(dashboards):
    for name, dashboard in dashboards.items():
        defined = {entry["name"]: entry for entry in dashboard["templating"]["list"]}
        assert defined["datasource"]["query"] == "prometheus"
        used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard))) - {"__rate_interval", "__all"}
        assert used == set(defined), name
        for entry in defined.values():
            if entry["type"] == "query":
                asked = re.fullmatch(r"label_values\((.+), (\w+)\)", entry["query"]["query"])
                assert list(problems(asked[1])) == []
                assert asked[2] in KNOWN[SERIES.match(asked[1])[1]]


def test_dashboards_are_laid_out(dashboards):
    assert len({d["uid"] for d in dashboards.values()}) == len({d["title"] for d in dashboards.values()}) == 3
    for dashboard in dashboards.values():
        assert {"schemaVersion", "time", "refresh", "annotations"} <= dashboard.keys()
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(ids) == len(set(ids))
        places = [panel["gridPos"] for panel in dashboard["panels"]]
        assert all(p["x"] >= 0 and p["x"] + p["w"] <= 24 for p in places)
        for a, b in itertools.combinations(places, 2):
            apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"] or a["y"] + a["h"] <= b["y"]
            assert apart or b["y"] + b["h"] <= a["y"], (a, b)
        for panel in graphs(dashboard):
            assert [t["refId"] for t in panel["targets"]] == ["A", "B", "C", "D"][: len(panel["targets"])]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


def test_monitors_mean_the_pods_that_there_are(render):
    """Of any workload, role and track; and the three tell metrics apart."""
    objects = render("metrics.podMonitor.enabled=true")
    monitors = {item["metadata"]["labels"][labels.COMPONENT]: item["spec"]
                for item in objects if item["kind"] == "PodMonitor"}  # fmt: skip
    assert set(monitors) == {"operator", "router", "worker"}
    (any_of,) = monitors["worker"]["selector"]["matchExpressions"]
    assert (any_of["key"], any_of["operator"]) == (labels.COMPONENT, "In")
    for made in (labels.workload_selector("m", labels.LEADER, "canary"), labels.group_selector("m")):
        made |= {"app.kubernetes.io/managed-by": "argosy-operator"}
        assert monitors["worker"]["selector"]["matchLabels"].items() <= made.items()
        assert made[labels.COMPONENT] in any_of["values"]
    assert monitors["worker"]["podTargetLabels"] == [labels.NAME, labels.ROLE, labels.TRACK]
    assert monitors["worker"]["namespaceSelector"] == {"any": True}
    for component in ("operator", "router"):
        (pod,) = [
            item["spec"]["template"] for item in objects
            if item["kind"] == "Deployment" and item["metadata"]["name"] == f"argosy-{component}"
        ]  # fmt: skip
        assert monitors[component]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        (endpoint,) = monitors[component]["podMetricsEndpoints"]
        assert endpoint["port"] in [port["name"] for port in pod["spec"]["containers"][0]["ports"]]


def test_no_label_of_a_series_is_lost_to_one_of_the_pod(render):
    """Prometheus puts the pod's own labels in place of those of the series, unless it is told to honour these."""
    objects = render("metrics.podMonitor.enabled=true")
    honoured = {
        item["metadata"]["name"].rpartition("-")[2]
        for item in objects
        if item["kind"] == "PodMonitor" and item["spec"]["podMetricsEndpoints"][0].get("honorLabels")
    }
    taken = TARGET | {"job", "instance", "container", "endpoint", "node"}
    assert honoured == {name.split("_")[1] for name, own in KNOWN.items() if own & taken} == {"operator"}


def test_namespaces_that_are_not_watched_are_not_read(render):
    text = yaml.safe_dump(render("namespaced-values.yaml", "metrics.podMonitor.enabled=true"))
    assert "any: true" not in text
