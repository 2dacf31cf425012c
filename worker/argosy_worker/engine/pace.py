"""How many tokens a step may have to take a set time, learned while serving.

    seconds of a step = a + b x tokens

a and b are fitted to the steps so far by least squares, an older step counting less. What a step computes decides when
a token comes, never which.
"""

from argosy_worker.engine.fit import Line

_KEEP = 0.9
"""What a step still counts after each later one: 10 steps at a time count in all."""


class Pace:
    """Tokens for a step of `target_s` seconds, from `least` to `most`; without a target always `most`."""

    def __init__(self, target_s: float | None, *, least: int, most: int) -> None:
        self._target, self._least, self._most = target_s, min(least, most), most
        self.tokens = most if target_s is None else self._least
        """For the next step. With a target the first one is small: nothing is known yet."""
        self._steps = Line()

    def add(self, tokens: int, seconds: float) -> None:
        """Take in a step."""
        if self._target is None or not tokens:
            return
        self._steps.add(tokens, seconds, keep=_KEEP)
        fixed, each = self._steps.fit() or self._alike()
        wanted = (self._target - fixed) / each if each > 0 else self._most
        self.tokens = int(min(max(wanted, self._least), self._most))

    def _alike(self) -> tuple[float, float]:
        """All steps were alike, or the fit says nothing."""
        tokens, seconds = self._steps.mean
        return 0.0, seconds / tokens
