"""Counters, gauges and histograms for what is counted all the time: plain numbers, which one thread alone writes.

`prometheus_client` takes a lock for every number, looks for a histogram's bucket from the first one on, and builds a
key under a lock for every set of labels: microseconds, where a token of a small model takes little more. These are
collectors of the same library, exposed as its own are, to the byte.

A page is made in another thread meanwhile. It needs no lock: a number is replaced as a whole, lists and dictionaries
are copied in one operation under the interpreter's lock. A histogram's count is the sum of the buckets that it shows;
its sum may be one observation ahead of them or behind, as between any two series of a page.
"""

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Count:
    """One series of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def inc(self, amount: float = 1) -> None:
        """`amount` more, which is not negative."""
        self.value += amount


class Level(Count):
    """One series of a gauge."""

    __slots__ = ()

    def dec(self) -> None:
        """One less."""
        self.value -= 1

    def set(self, value: float) -> None:
        """It is this from now on."""
        self.value = value


class Distribution:
    """One series of a histogram."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds`: the largest value of each bucket but the last, which takes all others."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """The value came, so many times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


_S = TypeVar("_S", Count, Level, Distribution)


class _Family(Collector, ABC, Generic[_S]):
    """All series of one name, by the values of their labels."""

    def __init__(self, name: str, text: str, label_names: Sequence[str] = (), *, registry: CollectorRegistry) -> None:
        self._name, self._text, self._labelnames = name, text, tuple(label_names)
        self._series: dict[tuple[str, ...], _S] = {}
        registry.register(self)

    def labels(self, *values: str) -> _S:
        """The series of these values, one for each label; made when it is first asked for. Keep it where you can."""
        found = self._series.get(values)
        if found is None:
            if len(values) != len(self._labelnames):
                raise ValueError(f"{self._name} has the labels {self._labelnames}, not {len(values)}")
            found = self._series[values] = self._new()
        return found

    def forget(self, *values: str) -> None:
        """The series of these values is not told any more, if there is one."""
        self._series.pop(values, None)

    def describe(self) -> Iterable[Metric]:
        """The name, without series, so that a registry refuses it when it comes again."""
        return [self._told({})]

    def collect(self) -> Iterable[Metric]:
        """All series, for a page."""
        return [self._told(self._series.copy())]

    @abstractmethod
    def _new(self) -> _S: ...

    @abstractmethod
    def _told(self, series: dict[tuple[str, ...], _S]) -> Metric: ...


class Counter(_Family[Count]):
    """Only grows."""

    def _new(self) -> Count:
        return Count()

    def _told(self, series: dict[tuple[str, ...], Count]) -> Metric:
        family = CounterMetricFamily(self._name, self._text, labels=self._labelnames)
        for values, one in series.items():
            family.add_metric(values, one.value)
        return family


class Gauge(_Family[Level]):
    """Goes up and down."""

    def _new(self) -> Level:
        return Level()

    def _told(self, series: dict[tuple[str, ...], Level]) -> Metric:
        family = GaugeMetricFamily(self._name, self._text, labels=self._labelnames)
        for values, one in series.items():
            family.add_metric(values, one.value)
        return family


class Histogram(_Family[Distribution]):
    """How often values came, by bucket."""

    def __init__(
        self,
        name: str,
        text: str,
        label_names: Sequence[str] = (),
        *,
        registry: CollectorRegistry,
        buckets: Sequence[float],
    ) -> None:
        """`buckets`: the largest value of each, ascending and not negative; one more takes what is above."""
        self._bounds = tuple(map(float, buckets))
        bounds = (*self._bounds, float("inf"))
        self._shown = [str(floatToGoString(bound)) for bound in bounds]  # type: ignore[no-untyped-call]
        super().__init__(name, text, label_names, registry=registry)

    def _new(self) -> Distribution:
        return Distribution(self._bounds)

    def _told(self, series: dict[tuple[str, ...], Distribution]) -> Metric:
        family = HistogramMetricFamily(self._name, self._text, labels=self._labelnames)
        for values, one in series.items():
            counts = one.counts.copy()
            family.add_metric(values, list(zip(self._shown, accumulate(counts), strict=True)), one.total)
        return family
