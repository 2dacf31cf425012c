"""Workers with roles: who computes a prompt, who generates. Pure.

A prompt goes to a `prefill` worker first when the worker that will generate would have to compute for PREFILL_FROM_S or
longer: below that the way over two workers costs more than it takes off those that generate. Without a role a worker
does everything; where nobody of a role is ready, those of the other do its work.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from argosy_api.resource import DECODE, PREFILL

PREFILL_FROM_S = 0.1


class Role(Protocol):
    """A worker, as far as its role goes."""

    @property
    def role(self) -> str:
        """`prefill`, `decode`, or empty."""
        ...


W = TypeVar("W", bound=Role)


def for_answers(workers: Sequence[W]) -> list[W]:
    """Who may generate: those that are not for prompts alone, or all where there is nobody else."""
    return [w for w in workers if w.role != PREFILL] or list(workers)


def for_prompts(workers: Sequence[W]) -> list[W]:
    """Who may compute a prompt for somebody else; nobody where nobody else would be left to generate."""
    prefill = [w for w in workers if w.role == PREFILL]
    return prefill if any(w.role == DECODE for w in workers) else []


def needs_prefill(prompt: int, generators: Iterable[tuple[int, float]]) -> bool:
    """Whether a prompt is too much work for each who may generate: their cached tokens of it, and their tokens/s."""
    return all((prompt - cached) / rate >= PREFILL_FROM_S for cached, rate in generators)
