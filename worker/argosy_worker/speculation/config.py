"""What may be guessed, and how much."""

from dataclasses import dataclass
from enum import StrEnum


class Method(StrEnum):
    """Who guesses."""

    AUTO = "auto"
    """Look-up, and the draft model where there is one; whichever pays."""
    DRAFT = "draft"
    NGRAM = "ngram"
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculationConfig:
    """As `spec.engine.speculative` says."""

    method: Method = Method.AUTO
    max_draft: int = 8
    """Tokens guessed for one request in one step at most."""

    @property
    def looks_up(self) -> bool:
        """Whether tokens are looked up in what came before."""
        return self.method in (Method.AUTO, Method.NGRAM)
