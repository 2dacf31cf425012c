"""Whether a canary does well: what routers measured at it, held against the workers beside it. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from argosy_api.measures import Measures, Trial, median
from argosy_api.spec.change import CanaryAnalysis


class Judgement(StrEnum):
    """What is to be done about a canary."""

    PROMOTE = "promote"
    """It may have more of the requests."""
    HOLD = "hold"
    """There is too little to judge by."""
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judgement, and why."""

    judgement: Judgement
    message: str


def judge(trial: Trial | None, limits: CanaryAnalysis) -> Verdict:
    """Judge by failures, then by the medians of the time to the first token and between tokens.

    Failures count as soon as there are so many that `min_requests` without another one could not make up for them.
    Times count once both sides have enough of them: one that is missing is no fast one.
    """
    if trial is None:
        return Verdict(Judgement.HOLD, "No router tells yet how it does.")
    canary, stable = trial.canary, trial.stable
    if (why := _failing(canary, stable, limits)) is not None:
        return Verdict(Judgement.ROLLBACK, why)
    times = (
        ("time to the first token", canary.ttft, stable.ttft, limits.max_ttft_ratio),
        ("time between tokens", canary.itl, stable.itl, limits.max_itl_ratio),
    )
    for what, mine, theirs, ratio in times:
        if min(sum(mine), sum(theirs)) < limits.min_requests:
            continue
        slow, usual = median(mine), median(theirs)
        if slow is not None and usual is not None and slow > ratio * usual:
            text = (
                f"Its median {what} is {slow * 1000:.3g} ms, {slow / usual:.1f} times that of the others "
                f"({usual * 1000:.3g} ms); {ratio:g} times is allowed."
            )
            return Verdict(Judgement.ROLLBACK, text)
    seen, beside = sum(canary.ttft), sum(stable.ttft)
    if min(seen, beside) < limits.min_requests:
        text = f"{seen} requests of the canary and {beside} of the others were measured; {limits.min_requests} of each"
        return Verdict(Judgement.HOLD, f"{text} are needed to judge.")
    return Verdict(Judgement.PROMOTE, f"It does as well as the others: {canary.errors} of {canary.requests} failed.")


def _failing(canary: Measures, stable: Measures, limits: CanaryAnalysis) -> str | None:
    tried = max(canary.requests, limits.min_requests)
    if canary.errors <= limits.max_error_rate * tried:
        return None
    usual = stable.errors / stable.requests if stable.requests else 0.0
    if canary.errors <= usual * tried:
        return None  # what fails everywhere is not the canary's
    return (
        f"{canary.errors} of its {canary.requests} requests failed by its fault ({usual:.1%} at the others); "
        f"{limits.max_error_rate:.1%} is allowed."
    )
