"""How many workers there are, decided from what waits and runs."""

from typing import Annotated, Literal

from pydantic import Field

from argosy_api import limits
from argosy_api.spec.strict import Strict

MetricType = Literal["queueSeconds", "running", "kvUsage", "ttft", "itl"]
Day = Literal["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
_CLOCK = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"
_OFFSET = r"^[+-](0[0-9]|1[0-4]):[0-5][0-9]$"


class MetricSpec(Strict):
    """One thing that is measured, and what it should be."""

    type: MetricType
    """queueSeconds: so many seconds after now, what waits should be computed, beside what comes in meanwhile.
    running: requests of one worker, running and waiting. kvUsage: used part of the KV cache, 0 to 1. ttft: seconds to
    the first token, and itl: seconds between two tokens, at the 90th percentile of the last minute."""
    target: Annotated[float, Field(ge=0.001, le=1_000_000)]
    """What it should not exceed, in seconds, requests, or as a part."""


class ScaleUpSpec(Strict):
    """How fast workers are added."""

    stabilization_seconds: Annotated[int, Field(ge=0, le=3600)] = 0
    """More workers must have been wanted for so long."""
    max_step: Annotated[int, Field(ge=1, le=1000)] = 4
    """Workers that are on their way at a time at most, or maxPercent where that is more."""
    max_percent: Annotated[int, Field(ge=0, le=10_000)] = 100
    """The same, in per cent of those that serve."""


class ScaleDownSpec(Strict):
    """How fast workers are taken away."""

    stabilization_seconds: Annotated[int, Field(ge=0, le=3600)] = 300
    """Fewer workers must have been enough for so long; a new operator waits anew."""
    max_step: Annotated[int, Field(ge=1, le=1000)] = 1
    """Workers that go within periodSeconds at most."""
    period_seconds: Annotated[int, Field(ge=1, le=3600)] = 60
    """For maxStep."""


class ScheduleSpec(Strict):
    """A time of the week with more workers, whatever is measured."""

    days: Annotated[list[Day], Field(max_length=7)] = []
    """On which days it begins. Default: on every day."""
    start: Annotated[str, Field(pattern=_CLOCK, max_length=5)]
    """When it begins, as 08:00."""
    end: Annotated[str, Field(pattern=_CLOCK, max_length=5)]
    """When it ends; a time that is not after start is one of the next day."""
    utc_offset: Annotated[str, Field(pattern=_OFFSET, max_length=6)] = "+00:00"
    """What start and end are ahead of UTC, as +01:00."""
    min_replicas: Annotated[int, Field(ge=1, le=1000)]
    """Workers at least in this time."""


class ScaleToZeroSpec(Strict):
    """When the last worker goes, and how long a request may wait for a new one."""

    idle_seconds: Annotated[int, Field(ge=10, le=86_400)] = 300
    """All workers go when no request has come or run for so long."""
    hold_seconds: Annotated[int, Field(ge=1, le=3600)] = 120
    """A request that finds no worker waits in the router for so long, while one starts; then it is refused."""


class AutoscalingSpec(Strict):
    """How many workers there are, decided from what waits and runs."""

    min_replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Workers at least. 0 needs scaleToZero."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)]
    """Workers at most."""
    metrics: Annotated[list[MetricSpec], Field(min_length=1, max_length=limits.MAX_SCALING_METRICS)] = [
        MetricSpec(type="queueSeconds", target=1.0)
    ]
    """What is measured; the one that wants most workers decides. Each type once."""
    scale_up: ScaleUpSpec = ScaleUpSpec()
    """How fast workers are added."""
    scale_down: ScaleDownSpec = ScaleDownSpec()
    """How fast workers are taken away."""
    scale_to_zero: ScaleToZeroSpec | None = None
    """When the last worker goes, and how long a request may wait for a new one; with minReplicas 0."""
    schedule: Annotated[list[ScheduleSpec], Field(max_length=limits.MAX_SCHEDULES)] = []
    """Times of the week with more workers."""

    @property
    def hold_seconds(self) -> float:
        """How long a request without a worker waits in a router; 0: not at all."""
        return 0.0 if self.scale_to_zero is None else float(self.scale_to_zero.hold_seconds)
