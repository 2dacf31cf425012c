"""How many tokens a step may have to take a set time, learned while serving.

    seconds of a step = a + b x tokens

a and b are fitted to the steps so far by least squares, an older step counting less. What a step computes decides when
a token comes, never which.
"""

_KEEP = 0.9
"""What a step still counts after each later one: 10 steps at a time count in all."""


class Pace:
    """Tokens for a step of `target_s` seconds, from `least` to `most`; without a target always `most`."""

    def __init__(self, target_s: float | None, *, least: int, most: int) -> None:
        self._target, self._least, self._most = target_s, min(least, most), most
        self.tokens = most if target_s is None else self._least
        """For the next step. With a target the first one is small: nothing is known yet."""
        self._weight = self._n = self._s = self._nn = self._ns = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        """Take in a step."""
        if self._target is None or not tokens:
            return
        self._weight = _KEEP * self._weight + 1
        self._n = _KEEP * self._n + tokens
        self._s = _KEEP * self._s + seconds
        self._nn = _KEEP * self._nn + tokens * tokens
        self._ns = _KEEP * self._ns + tokens * seconds
        fixed, each = self._fit()
        wanted = (self._target - fixed) / each if each > 0 else self._most
        self.tokens = int(min(max(wanted, self._least), self._most))

    def _fit(self) -> tuple[float, float]:
        """Seconds of a step without tokens, and of each token."""
        spread = self._weight * self._nn - self._n * self._n
        if spread > 0.01 * self._n * self._n:
            each = (self._weight * self._ns - self._n * self._s) / spread
            fixed = (self._s - each * self._n) / self._weight
            if each > 0 and fixed >= 0:
                return fixed, each
        return 0.0, self._s / self._n  # all steps were alike, or the fit says nothing
