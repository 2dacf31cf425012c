"""What others may scale by: names, values, quantities, selectors; what is not known is an error."""

import math
from datetime import UTC, datetime

import pytest
from external_kit import LOAD, old, routes
from hypothesis import given
from hypothesis import strategies as st

from argosy_api import latency, quantity
from argosy_api.errors import InvalidArgumentError, NotFoundError, UnavailableError
from argosy_api.routes import Demand, RouteState
from argosy_operator.autoscaling.signals import NOTHING, Signals, Told, signals
from argosy_operator.external import documents, figures
from argosy_operator.external.source import Source

BUSY = Demand(in_flight=4, prompt_rate=500.0, ttft={latency.bin_of(0.5): 20})


def known(*answers, asked=None, at=100.0, now=100.0) -> Signals:
    told = [answer.deployments[0] if answer is not None else None for answer in answers]
    return signals(Told(at, len(told) if asked is None else asked, told), now)


def test_each_figure_is_the_sum_over_workers_or_a_time():
    found = known(routes(LOAD, LOAD, demand=BUSY))
    values = {name: figures.value(name, found) for name in figures.FIGURES}
    assert values == {
        "argosy-queue-seconds": 3.0,
        "argosy-arriving-seconds": 0.5,
        "argosy-running": 6,
        "argosy-held": 0,
        "argosy-kv-usage": 0.5,
        "argosy-ttft-seconds": pytest.approx(0.5, rel=0.2),
        "argosy-itl-seconds": 0.02,
    }


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (NOTHING, "no router has told"),
        (known(routes(LOAD), at=0.0), "no router has told"),  # a minute and more ago
        (known(routes(LOAD), asked=2), "not every router"),
        (known(routes(LOAD, None)), "not every router"),
        (known(routes(LOAD, old(LOAD))), "not every router"),
        (known(routes(None, state=RouteState.CONNECTING)), "no worker takes requests"),
        (known(routes()), "no worker takes requests"),
    ],
)
def test_what_is_not_known_is_no_number(found, says):
    for name in figures.FIGURES:
        if name == "argosy-held" and "no worker" in says:
            assert figures.value(name, found) == 0  # routers know that
        else:
            with pytest.raises(UnavailableError, match=says):
                figures.value(name, found)


def test_without_a_worker_held_requests_are_known_and_to_those_who_come_from_zero_all_is():
    found = known(routes(demand=Demand(held=7, in_flight=7)))
    assert figures.value("argosy-held", found) == 7
    assert figures.value("argosy-running", found, from_zero=True) == 7
    assert figures.value("argosy-queue-seconds", found, from_zero=True) == 0
    assert figures.value("argosy-ttft-seconds", found, from_zero=True) == 0
    starting = known(routes(None, state=RouteState.CONNECTING, demand=Demand(held=7, in_flight=7)))
    with pytest.raises(UnavailableError, match="no worker takes requests"):
        figures.value("argosy-running", starting, from_zero=True)


def test_times_with_few_requests_and_with_none():
    few = known(routes(LOAD, demand=Demand(ttft={latency.bin_of(2.0): 1})))
    assert few.ttft is None  # our own autoscaling does not go by one request
    assert figures.value("argosy-ttft-seconds", few) == pytest.approx(2.0, rel=0.2)
    nobody = known(routes(LOAD, demand=Demand(idle_s=61.0)))
    assert figures.value("argosy-ttft-seconds", nobody) == 0
    waits = known(routes(LOAD, demand=Demand(in_flight=1)))
    with pytest.raises(UnavailableError, match="too few"):
        figures.value("argosy-ttft-seconds", waits)


def test_a_name_that_there_is_not():
    with pytest.raises(NotFoundError, match="argosy-queue-seconds"):
        figures.value("queue", known(routes(LOAD)))


@pytest.mark.parametrize(
    ("found", "active"),
    [
        (known(routes(demand=Demand(held=1, in_flight=1))), True),
        (known(routes(LOAD)), True),
        (known(routes(LOAD), asked=2), True),
        (known(routes(demand=Demand(idle_s=5.0))), False),
    ],
)
def test_whether_a_worker_is_needed(found, active):
    assert figures.is_active(found) is active


def test_whether_none_is_needed_takes_all_routers_to_tell():
    with pytest.raises(UnavailableError):
        figures.is_active(known(routes(demand=Demand()), asked=2))


class Last:
    def __init__(self, told):
        self._told = told

    def told(self, namespace, name):
        return self._told


def test_a_resource_that_no_router_knows():
    with pytest.raises(NotFoundError, match="default/m"):
        Source(Last(Told(0.0, 2, [None, None]))).signals("default", "m")
    assert Source(Last(Told(0.0, 2, [None]))).signals("default", "m") == NOTHING  # the other one may
    assert Source(Last(None)).signals("default", "m") == NOTHING


@given(st.floats(0, 1e9))
def test_quantities_keep_a_number_to_a_thousandth(value):
    found = quantity.parse(documents.quantity(value))
    assert math.isclose(float(found), value, abs_tol=0.0011)
    assert (found == 0) == (value == 0)


def test_quantities_are_written_as_kubernetes_does():
    assert [documents.quantity(value) for value in (0, 3, 1.5, 0.0001, 0.02)] == ["0", "3", "1500m", "1m", "20m"]


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("deployment=m", ["m"]),
        ("deployment==m", ["m"]),
        (" deployment = my.model-2 ", ["my.model-2"]),
        ("deployment in (a,b)", ["a", "b"]),
        ("deployment in ( a , a )", ["a"]),
    ],
)
def test_selectors(selector, names):
    assert documents.chosen(selector) == names


@pytest.mark.parametrize(
    "selector",
    [
        "", "deployment", "!deployment", "deployment!=m", "deployment=", "app=m", "deployment=m,app=x",
        "deployment notin (a)", "deployment in ()", "deployment=M", "deployment=" + "m" * 300,
        f"deployment in ({','.join(f'm{i}' for i in range(17))})",
    ],
)  # fmt: skip
def test_other_selectors_are_refused(selector):
    with pytest.raises(InvalidArgumentError, match="labelSelector"):
        documents.chosen(selector)


def test_a_value_says_when_it_was_measured_and_over_which_time():
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    found = known(routes(LOAD, demand=BUSY), at=100.0, now=104.0)  # the report was a second old four seconds ago
    told = documents.item("argosy-queue-seconds", "m", found, now)
    assert told == {
        "metricName": "argosy-queue-seconds",
        "metricLabels": {"deployment": "m"},
        "timestamp": "2026-01-02T03:04:00Z",
        "value": "1500m",
    }
    assert documents.item("argosy-arriving-seconds", "m", found, now)["window"] == 60
