"""What became of one request at workers: each attempt with its decision, for those who ask why (`argosy explain`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from argosy_router.routing.dispatch import Decision

MOST = 16
"""Attempts that are remembered: the first one, and the latest. A long answer may outlive any number of workers."""


@dataclass(slots=True, kw_only=True)
class Try:
    """One attempt."""

    decision: Decision
    at: float
    """When it began; seconds of `clock.now`."""
    tokens: int
    """Of the answer that were there already."""
    lost: str = ""
    """Why it was over before the answer was whole, in a word."""


def add(tries: list[Try], one: Try) -> None:
    """One more, within bounds."""
    if len(tries) >= MOST:
        del tries[1]
    tries.append(one)


def told(tries: Sequence[Try], began: float) -> list[dict[str, Any]]:
    """As JSON has it; times in seconds since the request came (`began`)."""
    return [_told(one, began) for one in tries]


def _told(one: Try, began: float) -> dict[str, Any]:
    decision = one.decision
    considered = [
        {
            "worker": c.worker,
            "cost_s": sum(c.terms),
            **{f"{name}_s": seconds for name, seconds in c.terms._asdict().items()},
            "cached_tokens": c.cached,
            "source": c.source,
        }
        for c in decision.considered
    ]
    return {
        "worker": decision.worker,
        "policy": decision.policy,
        "reason": decision.reason,
        "cost_s": decision.cost_s,
        "cached_tokens": decision.cached,
        "source": decision.source,
        "after_s": one.at - began,
        "tokens_before": one.tokens,
        "lost": one.lost,
        "candidates": decision.candidates,
        "considered": considered,
    }
