"""What preparing makes of an ask."""

from collections.abc import Sequence
from dataclasses import dataclass

from argosy_router.routing.job import Job
from argosy_router.text.model_text import Encoded
from argosy_router.text.models import ModelCard


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """An ask that may fly: one job for each choice."""

    card: ModelCard
    prompts: Sequence[Encoded]
    texts: Sequence[str]
    """The prompts' texts, where the ask wants them back."""
    jobs: Sequence[Job]
