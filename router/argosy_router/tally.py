"""How many requests of each model ended, well or not, and how long they took, for clients that ask for statistics."""

from dataclasses import dataclass


@dataclass(slots=True)
class Tally:
    """Of one model, since the router began."""

    succeeded: int = 0
    succeeded_s: float = 0.0
    """Seconds, all together."""
    failed: int = 0
    """Cancelled ones, too."""
    failed_s: float = 0.0
    last_at: float = 0.0
    """Unix time of the last end; 0 before the first."""


class Tallies:
    """Of all models that were served here."""

    def __init__(self) -> None:
        self._models: dict[str, Tally] = {}

    def of(self, model: str) -> Tally:
        """Of a served name."""
        return self._models.get(model) or Tally()

    def ended(self, model: str, code: str, seconds: float, at: float) -> None:
        """A request of a known model ended at `at`, in Unix time."""
        tally = self._models.setdefault(model, Tally())
        tally.last_at = at
        if code == "OK":
            tally.succeeded += 1
            tally.succeeded_s += seconds
        else:
            tally.failed += 1
            tally.failed_s += seconds
