"""What a step takes, as a function of its rows, learnt while serving. Seconds throughout.

A step that only generates has one row for each of its n requests, and d rows of drafts on top. What n rows take is a
decayed mean for each n. What the drafts add is nearly a line in d (a fixed part where the rows of a draft are computed
in another way than single ones, and so much for each row), fitted by decayed least squares for each size of n.

Where no drafts are tried any more, what was learnt of their cost fades, so that they are tried again some day.

Single measurements are bounded by what was believed before, so that a step during which the machine did something else
does not move much.
"""

from collections.abc import Callable

REFRESH = 64
"""Steps after which a mean of plain steps is too old: contexts have grown, requests have changed."""
_OF_A_REQUEST, _OF_ITS_WORTH = 0.9, 0.9


class Mean:
    """Decayed mean of times, each of which may differ from it by half at most."""

    def __init__(self, first: float) -> None:
        self.value, self._count = first, 1

    def add(self, seconds: float) -> None:
        """One more."""
        self._count += 1
        change = max(-self.value / 2, min(self.value / 2, seconds - self.value))
        self.value += change * max(0.1, 1 / self._count)


class Line:
    """Decayed least squares of y = a + b x, with a, b >= 0, held near a slope until there is more."""

    _KEEP, _FADE = 0.95, 0.995

    def __init__(self) -> None:
        self._w = self._x = self._xx = self._y = self._xy = 0.0

    def add(self, x: float, y: float) -> None:
        """One more point."""
        keep = self._KEEP
        self._w = keep * self._w + 1
        self._x = keep * self._x + x
        self._xx = keep * self._xx + x * x
        self._y = keep * self._y + y
        self._xy = keep * self._xy + x * y

    def fade(self) -> None:
        """Trust what was measured a little less."""
        self._w, self._x, self._xx = self._FADE * self._w, self._FADE * self._x, self._FADE * self._xx
        self._y, self._xy = self._FADE * self._y, self._FADE * self._xy

    def fit(self, slope: float) -> tuple[float, float]:
        """(a, b); `slope` is what b is taken to be where there are no points."""
        # two points of the believed line through the origin, at 0 and 4
        w, x, xx = self._w + 2, self._x + 4, self._xx + 16
        y, xy = self._y + 4 * slope, self._xy + 16 * slope
        b = (w * xy - x * y) / (w * xx - x * x)
        a = (y - b * x) / w
        if b < 0:
            return max(0.0, y / w), 0.0
        return (a, b) if a >= 0 else (0.0, max(0.0, xy / xx))


class StepCost:
    """Times of steps that only generate."""

    def __init__(self) -> None:
        self._plain: dict[int, Mean] = {}
        self._seen: dict[int, int] = {}  # when each was last measured
        self._lines: dict[int, Line] = {}
        self._steps = 0

    def add(self, requests: int, drafted: int, seconds: float) -> None:
        """A step of so many requests, and so many rows of drafts on top of theirs."""
        self._steps += 1
        if not drafted:
            mean = self._plain.get(requests)
            if mean is None:
                self._plain[requests] = Mean(seconds)
            else:
                mean.add(seconds)
            self._seen[requests] = self._steps
            if line := self._lines.get(requests.bit_length()):
                line.fade()
            return
        plain = self.plain(requests)
        if plain is not None:
            believed = self.added(requests, plain)(drafted)
            extra = max(believed - plain, min(believed + plain, seconds - plain))
            self._lines.setdefault(requests.bit_length(), Line()).add(drafted, extra)

    def plain(self, requests: int) -> float | None:
        """What a step of so many requests, or nearly so many, takes without drafts; None where none was measured."""
        reach = max(1, requests // 8) if requests > 2 else 0
        near = min(self._plain, key=lambda other: abs(other - requests), default=None)
        return None if near is None or abs(near - requests) > reach else self._plain[near].value

    def stale(self, requests: int) -> bool:
        """Whether steps of so many requests go on, but none without drafts was measured lately."""
        return requests in self._seen and self._steps - self._seen[requests] >= REFRESH

    def added(self, requests: int, plain: float) -> Callable[[int], float]:
        """What so many rows of drafts add to a step of so many requests, which takes `plain` without."""
        size = requests.bit_length()
        slope = self._believed(requests, plain)
        near = min(self._lines, key=lambda other: abs(other - size), default=None)
        if near is not None and near != size:
            other = self._lines[near].fit(slope)[1]
            slope = other if near > size else max(slope, other)  # rows may be cheap only where they are few
        a, b = self._lines[size].fit(slope) if near == size else (0.0, slope)
        return lambda drafted: a + b * drafted if drafted else 0.0

    def _believed(self, requests: int, plain: float) -> float:
        """What a row of drafts is taken to add until it is measured: a little less than one more request does.

        And less than a token is worth, plain / requests, so that it will be measured: much less where what a request
        adds is not known, or nothing.
        """
        if requests == 1:
            return plain / 8
        worth = plain / requests
        fewer = max((n for n in self._plain if 2 * n <= requests), default=None)
        if fewer is None:
            return worth / 4
        request = (plain - self._plain[fewer].value) / (requests - fewer)
        return max(worth / 8, min(_OF_A_REQUEST * request, _OF_ITS_WORTH * worth))
