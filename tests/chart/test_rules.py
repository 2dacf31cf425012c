"""The chart's alerts as Prometheus itself reads them: each fires when it should, and not when all is well."""

import json
import subprocess

import pytest
from alert_cases import CASES
from prometheus_kit import groups, program

ANY_HELM = True
VALUES = ("metrics.prometheusRule.enabled=true", "metrics.prometheusRule.firstTokenSeconds=2")


@pytest.fixture(scope="session")
def promtool():
    """Run promtool; the exit code is the caller's to judge."""
    path = program("promtool")

    def run(*arguments):
        return subprocess.run([path, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120)

    return run


@pytest.fixture
def rules(promtool, render, tmp_path):
    """File and content of the rules."""
    content = groups(render(*VALUES))
    (tmp_path / "rules.json").write_text(json.dumps(content))  # JSON is YAML
    return tmp_path / "rules.json", {rule["alert"]: rule for group in content["groups"] for rule in group["rules"]}


def fired(rule, labels):
    """The alert as Prometheus tells it."""
    summary = rule["annotations"]["summary"]
    for name, value in labels.items():
        summary = summary.replace(f"{{{{ $labels.{name} }}}}", value)
    return {"exp_labels": rule["labels"] | labels, "exp_annotations": rule["annotations"] | {"summary": summary}}


def cases(rules):
    """promtool's tests: what fires, what is too soon, what stays silent."""
    for name, case in CASES.items():
        rule = rules[name]
        wait = int(rule["for"].removesuffix("m"))
        looks = {wait + 5: [fired(rule, case.labels)], wait - 1: []}
        quiet = {wait + 5: []}
        for what, given, expected in (("fires", case.fires, looks), ("silent", case.silent, quiet)):
            for number, series in enumerate(given):
                yield {
                    "interval": "1m",
                    "name": f"{name} {what} {number}",
                    "input_series": [{"series": s, "values": values} for s, values in series.items()],
                    "alert_rule_test": [
                        {"eval_time": f"{at}m", "alertname": name, "exp_alerts": alerts}
                        for at, alerts in expected.items()
                    ],
                }


def test_prometheus_takes_the_rules(promtool, rules):
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", rules[0])
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_when_it_should_and_not_otherwise(promtool, rules, tmp_path):
    path, found = rules
    assert CASES.keys() == found.keys(), "an alert without cases here, or cases without an alert"
    assert [name for name, case in CASES.items() if not (case.fires and case.silent)] == []
    (tmp_path / "tests.json").write_text(
        json.dumps({"rule_files": [path.name], "evaluation_interval": "1m", "tests": list(cases(found))})
    )
    done = promtool("test", "rules", tmp_path / "tests.json")
    assert done.returncode == 0, done.stdout + done.stderr
