"""A real Prometheus scrapes a router, a worker and the operator's page as the chart's monitors do, with its rules."""

import json
import re
import subprocess

import pytest
from embedded_kit import running_simulated
from prometheus_kit import Api, groups, program
from reserved import free_port
from waiting import until

from argosy_api.net import PageServer
from argosy_operator.metrics import Health, Metrics, page

ANY_HELM = True
VALUES = (
    "metrics.prometheusRule.enabled=true",
    "metrics.prometheusRule.firstTokenSeconds=2",
    "metrics.dashboards.enabled=true",
)
NAME = re.compile(r"\bargosy_\w+")
OF_WHAT_IS_NOT_HERE = {
    "argosy_router_retries_total",
    "argosy_router_prefills_total",
    "argosy_router_index_repairs_total",
}
"""Series that are there from the first such event on."""


@pytest.fixture(scope="module")
def binary():
    return program("prometheus")


@pytest.fixture(scope="module")
def simulated(binary, tmp_path_factory):
    with running_simulated(tmp_path_factory.mktemp("simulated")) as one:
        for _ in range(2):
            assert one.complete("m", "a ship that holds more than one block of tokens").status == 200
        yield one


@pytest.fixture(scope="module")
def operator(binary):
    """The server of the operator's page, where all is well with one resource, which is autoscaled."""
    metrics, health = Metrics(), Health()
    metrics.leads(leads=True)
    metrics.set_ready("of-resource", "m", True)
    metrics.passed("ok", 0.1)
    metrics.redis_users_up.set(1)
    metrics.wanted_replicas.labels("of-resource", "m").set(1)
    metrics.scaling_signals.labels("of-resource", "m", "complete").set(1)
    metrics.scaling_decisions.labels("steady").inc()
    port = free_port()
    server = PageServer("127.0.0.1", port, lambda path: page(metrics, health, path))
    server.address = f"127.0.0.1:{port}"
    yield server
    server.close()


@pytest.fixture(scope="module")
def objects(render):
    return render(*VALUES)


@pytest.fixture(scope="module")
def prometheus(binary, simulated, operator, objects, tmp_path_factory):
    """It has scraped all three, and evaluated all rules since."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "rules.yml").write_text(json.dumps(groups(objects)))
    (worker,) = simulated.replicas()
    router = f"127.0.0.1:{simulated.metrics_port}"
    targets = {"router": router, "worker": worker.pages, "operator": operator.address}
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [
            {
                "job_name": part,
                "honor_labels": part == "operator",
                "static_configs": [{"targets": [address], "labels": {"namespace": "n", "pod": part}}],
            }
            for part, address in targets.items()
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    port, output = free_port(), folder / "output.txt"
    with output.open("w") as out:
        process = subprocess.Popen(
            [binary, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdout=out, stderr=out, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    api = Api(port)

    def seen():
        assert process.poll() is None, output.read_text()
        return api.get("status/config") and len(api.value("count_over_time(up[1h]) > 1 and up == 1")) == len(targets)

    try:
        until(seen, "two scrapes of all three", pause_s=0.1)
        yield api
    finally:
        process.terminate()
        process.wait()


def missing(prometheus, expressions):
    names = {name for expression in expressions for name in NAME.findall(expression)} - OF_WHAT_IS_NOT_HERE
    return sorted(name for name in names if not prometheus.value(f"count({name})"))


def test_rules_are_evaluated_without_a_fault_and_find_their_series(prometheus, objects):
    wanted = {rule["alert"] for group in groups(objects)["groups"] for rule in group["rules"]}

    def rules():
        found = {rule["name"]: rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]}
        return found if all(rule["evaluationTime"] for rule in found.values()) else None

    found = until(rules, "all rules were evaluated")
    assert found.keys() == wanted
    assert [(n, rule.get("lastError")) for n, rule in found.items() if rule["health"] != "ok"] == []
    assert missing(prometheus, [rule["query"] for rule in found.values()]) == []


def test_dashboards_are_answered(prometheus, objects):
    texts = [t for item in objects if "-dashboard-" in item["metadata"]["name"] for t in item["data"].values()]
    asked = [
        target["expr"].replace("$__rate_interval", "5m").replace("$model", ".*").replace("$namespace", ".*")
        for text in texts
        for panel in json.loads(text)["panels"]
        for target in panel.get("targets", [])
    ]
    assert len(asked) > 50
    for expression in asked:
        prometheus.value(expression)  # raises where Prometheus does
    assert missing(prometheus, asked) == []


def test_labels_of_the_operators_series_are_its_own(prometheus):
    ((labels, value),) = prometheus.value('argosy_operator_scaling_signals{signal="complete"}')
    assert (labels["namespace"], labels["name"], labels["pod"], value) == ("of-resource", "m", "operator", 1)


def test_no_alert_where_all_is_well_and_one_when_the_operator_goes(prometheus, operator):
    """The last one here: the operator does not come back."""
    until(
        lambda: prometheus.get("alerts")["alerts"] == [], "no alert"
    )  # a scrape may come too late, and the next one not
    operator.close()
    name = "ArgosyNoOperator"
    until(lambda: name in [alert["labels"]["alertname"] for alert in prometheus.get("alerts")["alerts"]], name)
