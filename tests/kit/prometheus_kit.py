"""Prometheus' own programs, where this machine has them: `make prometheus-tools` puts them into build/prometheus."""

import json
import os
import shutil
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

BUILT = Path(__file__).resolve().parents[2] / "build/prometheus/usr/bin"


def program(name):
    """Path of `prometheus` or `promtool`; without it the test is skipped, or fails where it is required."""
    found = shutil.which(name, path=f"{os.environ['PATH']}{os.pathsep}{BUILT}")
    if not found:
        reason = f"LEFT OUT: there is no {name} here; make prometheus-tools gets it"
        if os.environ.get("ARGOSY_REQUIRE_PROMETHEUS"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def groups(objects):
    """The groups of the PrometheusRule among the chart's objects, as the Prometheus operator hands them on."""
    (found,) = [item for item in objects if item["kind"] == "PrometheusRule"]
    return {"groups": found["spec"]["groups"]}


class Api:
    """A running Prometheus, asked over HTTP."""

    def __init__(self, port):
        self._base = f"http://127.0.0.1:{port}/api/v1/"

    def get(self, path, **query):
        """What is under `data` of an answer; None where nobody answers yet."""
        try:
            address = f"{self._base}{path}?{urllib.parse.urlencode(query)}"
            with urllib.request.urlopen(address, timeout=30) as answer:
                return json.loads(answer.read())["data"]
        except (urllib.error.HTTPError, urllib.error.URLError, ConnectionError) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code != 503:
                raise AssertionError(f"{query}: {error.read()!r}") from error
            return None

    def value(self, expression):
        """The samples that an expression has now: pairs of labels and number."""
        found = self.get("query", query=expression)
        return [(sample["metric"], float(sample["value"][1])) for sample in found["result"]]
