"""How far a change of a resource has come, and whether it is taken back. Pure.

    pending ──all workers routable──► good        the revision to go back to from then on
       └──no progress, or hopeless,
          or a canary that does ill──► failed     the workers are those of the last good revision again

A failed revision is not tried again until the resource asks for another one; then the same one may come back
(`spec.rollout.restart` does that without another change). Without a good revision there is nothing to go back to, and
the first one is tried for ever.

With a partition or a canary, workers of the new revision stand beside the others as a second workload. What a canary
was good for is asked of `analysis`; when its last step is over, the first workload is replaced, and the second goes as
it is no longer needed.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from argosy_api import labels, limits
from argosy_api.measures import Trial
from argosy_api.spec.change import CanaryStep, RolloutSpec
from argosy_operator.analysis import Judgement, judge
from argosy_operator.revisions import FAILED, GOOD, UNDECIDED, History, Revision, base_of, pruned, with_target
from argosy_operator.words import clip


class Phase(StrEnum):
    """Where a rollout stands."""

    COMPLETE = "Complete"
    ROLLING = "RollingOut"
    PARTITIONED = "Partitioned"
    CANARY = "Canary"
    ROLLED_BACK = "RolledBack"


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker pod that is there, as far as rollouts go. Times are seconds since the epoch."""

    revision: str
    track: str = labels.STABLE
    routable: bool = False
    routable_since: float = 0.0
    problem: str = ""
    """Why it does not serve."""
    hopeless_at: float = float("inf")
    """From when on that counts as something that does not pass by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the resource says, as far as rollouts go."""

    revision: str
    templates: str
    replicas: int
    rollout: RolloutSpec
    trial: Trial | None = None
    """What routers measured, where there is a canary."""

    def beside(self, mine: Revision) -> int | None:
        """Workers of a pending revision that are to stand beside the others, and no more of it for now; None: all."""
        step = self.step(mine)
        if step is not None:
            return math.ceil(self.replicas * step.weight / 100)
        return self.replicas - self.stay if self.stay else None

    @property
    def stay(self) -> int:
        """Workers that stay as they were."""
        return min(self.rollout.partition, self.replicas)

    def step(self, mine: Revision) -> CanaryStep | None:
        """The step of the canary that it is at; None: there is none, or it is over."""
        steps = [] if self.rollout.canary is None else self.rollout.canary.steps
        return steps[mine.step] if self.replicas and mine.step < len(steps) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What there must be."""

    history: History
    """The last is the one that the resource asks for."""
    phase: Phase
    stable: str
    """Revision of the workers."""
    stable_replicas: int
    canary: str = ""
    """Revision of the workers beside them."""
    canary_replicas: int = 0
    weight: int | None = None
    """Percent of the requests that are for those; None: as many as for any worker."""
    message: str = ""
    due: float = float("inf")
    """Seconds until another decision may be due though nothing happens."""

    @property
    def failed(self) -> str:
        """The revision that the resource asks for, if it was taken back."""
        return self.history[-1].hash if self.phase is Phase.ROLLED_BACK else ""

    @property
    def current(self) -> str:
        """The last revision of which all workers could be routed to; empty: there was none yet."""
        target, base = self.history[-1], base_of(self.history)
        if target.state == GOOD:
            return target.hash
        return "" if base is None else base.hash


def plan_rollout(history: Sequence[Revision], wanted: Wanted, workers: Sequence[Worker], now: float) -> Decision:
    """Say which workers there must be, and what became of the revisions. What is done once needs not be done again."""
    known = with_target(history, wanted.revision, wanted.templates, now)
    mine, base = known[-1], base_of(known)
    stable = {w.revision for w in workers if w.track == labels.STABLE}
    # what all the others still are need not be tried beside them
    beside_wanted = base is not None and not (mine.hash in stable and base.hash not in stable)
    due, text = float("inf"), ""
    if mine.state in UNDECIDED:
        mine, due, text = _judged(mine, base, wanted, workers, now, beside=beside_wanted)
    known = pruned((*known[:-1], mine), wanted.rollout.revision_history_limit, {w.revision for w in workers})
    there = Counter(w.revision for w in workers if w.track == labels.CANARY and w.routable)
    # those beside the others stay as long as they are needed
    missing = wanted.replicas - sum(w.routable for w in workers if w.track == labels.STABLE)
    names = {revision.hash for revision in known}
    canary, count = next(((name, n) for name, n in there.most_common() if name in names), ("", 0))
    needed = max(0, min(count, missing))
    new = wanted.beside(mine) if beside_wanted else None
    if base is None or mine.state == GOOD or (mine.state in UNDECIDED and new is None):
        return Decision(
            history=known,
            phase=Phase.COMPLETE if mine.state == GOOD else Phase.ROLLING,
            stable=mine.hash,
            stable_replicas=wanted.replicas,
            canary=canary,
            canary_replicas=needed,
            due=due,
        )
    if mine.state == FAILED:
        return Decision(
            history=known,
            phase=Phase.ROLLED_BACK,
            stable=base.hash,
            stable_replicas=wanted.replicas,
            canary=canary,
            canary_replicas=needed,
            message=f"Revision {mine.hash} was taken back to {base.hash}: {mine.why}",
        )
    step = wanted.step(mine)
    stay = wanted.replicas if step is not None else wanted.stay
    return Decision(
        history=known,
        phase=Phase.PARTITIONED if step is None else Phase.CANARY,
        stable=base.hash,
        stable_replicas=max(stay, wanted.replicas - there.total()),  # nobody goes before another one can serve
        canary=mine.hash,
        canary_replicas=max(new or 0, needed),
        weight=None if step is None else step.weight,
        message=text,
        due=due,
    )


def _judged(
    mine: Revision, base: Revision | None, wanted: Wanted, workers: Sequence[Worker], now: float, *, beside: bool
) -> tuple[Revision, float, str]:
    """What has become of a pending revision; after how many seconds to ask again though nothing happens; in words."""
    never = float("inf")
    if wanted.replicas == 0:
        return replace(mine, began=0), never, ""  # time does not count while nobody is wanted
    if _routable(workers, mine.hash, labels.STABLE) >= wanted.replicas:
        return replace(mine, state=GOOD), never, ""
    if base is None:
        return mine, never, ""
    new = [w for w in workers if w.revision == mine.hash]
    hopeless = next((w for w in new if w.hopeless_at <= now), None)
    if hopeless is not None:
        return _failed(mine, hopeless.problem), never, ""
    ripe = min((w.hopeless_at for w in new), default=never) - now
    text, limit = "", wanted.rollout.progress_deadline_seconds
    if beside and (few := wanted.beside(mine)) is not None:
        text = f"{few} of {wanted.replicas} workers are to be of revision {mine.hash}"
        if sum(w.routable for w in new) >= few:
            mine, due, text = _held(mine, wanted, now, text)
            return replace(mine, began=0), min(due, ripe), text  # nor while no more of them are wanted
        text = f"{text}; they are being started."
    if mine.began == 0:
        return replace(mine, began=int(now)), min(limit, ripe), text
    end = max([mine.began, *(w.routable_since for w in new if w.routable)]) + limit
    if now < end:
        return mine, min(end - now, ripe), text
    last = next((w.problem for w in new if w.problem), "There is no worker of it that could say why.")
    return _failed(mine, f"For {limit} s no further worker of it could be routed to. {last}"), never, ""


def _held(mine: Revision, wanted: Wanted, now: float, text: str) -> tuple[Revision, float, str]:
    """As many workers of it as are wanted for now can be routed to: what is waited for, or comes next."""
    step, canary = wanted.step(mine), wanted.rollout.canary
    if step is None or canary is None:
        return mine, float("inf"), f"{text}, for spec.rollout.partition is {wanted.stay}."
    verdict = judge(wanted.trial, canary.analysis)
    number = f"Step {mine.step + 1} of {len(canary.steps)}"
    if verdict.judgement is Judgement.ROLLBACK:
        return _failed(mine, f"{number}, {step.weight} % of the requests: {verdict.message}"), float("inf"), ""
    since = mine.step_since or int(now)
    left = since + step.pause_seconds - now
    if left <= 0 and verdict.judgement is Judgement.PROMOTE:
        return replace(mine, step=mine.step + 1, step_since=0), 0.0, f"{number} is over. {verdict.message}"
    text = f"{number}: {step.weight} % of the requests are for revision {mine.hash}. {verdict.message}"
    return replace(mine, step_since=since), left if left > 0 else float("inf"), text


def _failed(mine: Revision, why: str) -> Revision:
    return replace(mine, state=FAILED, why=clip(why, limits.MAX_CONDITION_MESSAGE))


def _routable(workers: Sequence[Worker], revision: str, track: str) -> int:
    return sum(w.routable for w in workers if (w.revision, w.track) == (revision, track))
