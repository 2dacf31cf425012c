"""What a resource's conditions say of its rollout: status, reason and message of each. Pure."""

from argosy_api.status import CanaryStatus
from argosy_operator.diagnose import Reason
from argosy_operator.rollout import Decision, Phase

Verdict = tuple[str, str, str]
_REASONS = {
    Phase.ROLLED_BACK: Reason.ROLLED_BACK,
    Phase.PARTITIONED: Reason.PARTITIONED,
    Phase.CANARY: Reason.CANARY,
}
"""Phases in which the spec is not in force, and will not come to be without somebody's doing or a while."""


def canary(decision: Decision | None) -> CanaryStatus | None:
    """What routers are to know of a canary, and people."""
    if decision is None or decision.weight is None:
        return None
    mine = decision.history[-1]
    return CanaryStatus(revision=mine.hash, weight=decision.weight, step=mine.step + 1, message=decision.message)


def ready(decision: Decision | None, routable: int) -> Verdict | None:
    """Why a resource is not ready that is served; None where the rollout is no reason."""
    if decision is None or decision.phase not in _REASONS:
        return None
    serve = f"{routable} {'worker' if routable == 1 else 'workers'} of revision {decision.stable} can serve."
    return "False", _REASONS[decision.phase], f"{serve} {decision.message}"


def progressing(decision: Decision | None) -> Verdict | None:
    """How far it is, where pods do not say it."""
    if decision is None or decision.phase not in _REASONS:
        return None
    going = "False" if decision.phase is Phase.ROLLED_BACK else "True"
    return going, _REASONS[decision.phase], decision.message


def degraded(decision: Decision | None) -> Verdict:
    """Whether what serves is not what was asked for, and will not come to be by itself."""
    if decision is None:
        return "Unknown", Reason.NOT_OBSERVED, "What the resource asks for is not known: other conditions say why."
    if decision.phase is not Phase.ROLLED_BACK:
        return "False", Reason.AS_ASKED, "No change of the resource was taken back."
    advice = "It is tried again when what pods are made of changes in the spec, or spec.rollout.restart does."
    return "True", Reason.ROLLED_BACK, f"{decision.message} {advice}"
