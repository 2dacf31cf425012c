"""Plain metrics are exposed as the library's own are, to the byte, and refuse what those refuse."""

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, disable_created_metrics, generate_latest

from argosy_api import plain_metrics

BUCKETS = (0.5, 1, 2.5)
WAY = ["model", "way"]


def made(library):
    """A page of one library's metrics, with what happened to them."""
    disable_created_metrics()
    registry = CollectorRegistry()
    counter = library.Counter("a_requests", 'Ended, "well"\nor not', WAY, registry=registry)
    gauge = library.Gauge("a_level", "Now", ["model"], registry=registry)
    histogram = library.Histogram("a_seconds", "Took", ["model"], registry=registry, buckets=BUCKETS)
    library.Counter("a_nothing_total", "Never", WAY, registry=registry)
    library.Histogram("a_silence", "Never", ["model"], registry=registry, buckets=BUCKETS).labels("m")
    counter.labels("m", 'x"\\\n').inc()
    counter.labels("m", "y").inc(2.5)
    counter.labels("m", "y").inc()
    gauge.labels("m").inc()
    gauge.labels("m").inc()
    gauge.labels("m").dec()
    gauge.labels("n").set(-0.25)
    for value in (0, 0.5, 0.50001, 1, 2.5, 2.6, 1e9):
        histogram.labels("m").observe(value)
    return registry


def test_the_page_is_the_librarys_own_to_the_byte():
    page = generate_latest(made(plain_metrics))
    assert page == generate_latest(made(prometheus_client))
    assert b'a_seconds_bucket{le="1.0",model="m"} 4.0' in page


def test_a_series_without_labels_is_told_from_the_beginning():
    registry, theirs = CollectorRegistry(), CollectorRegistry()
    one = plain_metrics.Histogram("a", "A", registry=registry, buckets=BUCKETS).labels()
    other = prometheus_client.Histogram("a", "A", registry=theirs, buckets=BUCKETS)
    assert generate_latest(registry) == generate_latest(theirs)
    one.observe(2)
    other.observe(2)
    assert generate_latest(registry) == generate_latest(theirs)


def test_a_value_that_came_several_times_counts_as_often():
    registry = CollectorRegistry()
    plain_metrics.Histogram("a", "A", registry=registry, buckets=BUCKETS).labels().observe(0.75, 3)
    assert registry.get_sample_value("a_bucket", {"le": "0.5"}) == 0
    assert registry.get_sample_value("a_bucket", {"le": "1.0"}) == 3
    assert (registry.get_sample_value("a_count"), registry.get_sample_value("a_sum")) == (3, 2.25)


def test_a_name_that_is_taken_and_too_few_labels_are_refused():
    registry = CollectorRegistry()
    counter = plain_metrics.Counter("a", "A", WAY, registry=registry)
    with pytest.raises(ValueError, match="a_total"):
        prometheus_client.Counter("a", "A", registry=registry)
    with pytest.raises(ValueError, match="not 1"):
        counter.labels("m")


def test_a_forgotten_series_is_gone_and_its_keeper_may_go_on():
    registry = CollectorRegistry()
    gauge = plain_metrics.Gauge("a", "A", ["model"], registry=registry)
    kept = gauge.labels("m")
    gauge.forget("m")
    gauge.forget("n")
    kept.dec()
    assert registry.get_sample_value("a", {"model": "m"}) is None
