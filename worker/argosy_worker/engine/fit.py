"""A straight line through what was measured, an older point counting less."""


class Line:
    """y = fixed + each x, by least squares."""

    def __init__(self) -> None:
        self.points = 0
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    def add(self, x: float, y: float, *, keep: float) -> None:
        """Take in a point; each earlier one counts `keep` of what it did."""
        self.points += 1
        self._weight = keep * self._weight + 1
        self._x = keep * self._x + x
        self._y = keep * self._y + y
        self._xx = keep * self._xx + x * x
        self._xy = keep * self._xy + x * y

    @property
    def mean(self) -> tuple[float, float]:
        """Of x and of y; 0 without a point."""
        return (self._x / self._weight, self._y / self._weight) if self._weight else (0.0, 0.0)

    def fit(self) -> tuple[float, float] | None:
        """`fixed`, at least 0, and `each`, above 0; None where the points lie too close, or on no such line."""
        spread = self._weight * self._xx - self._x * self._x
        if spread <= 0.01 * self._x * self._x:
            return None
        each = (self._weight * self._xy - self._x * self._y) / spread
        fixed = (self._y - each * self._x) / self._weight
        return (fixed, each) if each > 0 and fixed >= 0 else None
