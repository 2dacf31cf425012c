"""The least number of workers at a time of the week."""

from datetime import datetime, timedelta, timezone

from argosy_api.resource import AutoscalingSpec, ScheduleSpec

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def least(spec: AutoscalingSpec, now: datetime) -> int:
    """minReplicas, or what a time of the week wants that is now; `now` has a time zone."""
    return max([spec.min_replicas, *(part.min_replicas for part in spec.schedule if _holds(part, now))])


def _holds(part: ScheduleSpec, now: datetime) -> bool:
    sign = -1 if part.utc_offset.startswith("-") else 1
    local = now.astimezone(timezone(sign * _clock(part.utc_offset[1:])))
    start, end = _clock(part.start), _clock(part.end)
    length = end - start if end > start else end - start + timedelta(days=1)
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    begins = (midnight - timedelta(days=1) + start, midnight + start)
    return any(_on(part, begin) and begin <= local < begin + length for begin in begins)


def _on(part: ScheduleSpec, day: datetime) -> bool:
    return not part.days or _DAYS[day.weekday()] in part.days


def _clock(text: str) -> timedelta:
    hours, _, minutes = text.partition(":")
    return timedelta(hours=int(hours), minutes=int(minutes))
