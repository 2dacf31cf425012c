"""What the workers of a deployment can do at the moment, all together."""

from argosy_api.order import RESOURCE_DEFAULTS
from argosy_router.fleet.deployment import DeploymentState
from argosy_router.tenants.turns import Strength


def strength(state: DeploymentState, time: float) -> Strength:
    """Of those that take requests. Walks through all workers."""
    there = [w for w in state.workers.values() if w.facts is not None and w.healthy(time)]
    loads = [load.prefill_tokens_per_second for w in there if (load := w.fresh_load(time)) is not None]
    known = [rate for rate in loads if rate > 0]
    facts = [w.facts for w in there if w.facts is not None]
    return Strength(
        workers=len(there),
        # who has not said yet is taken for one like the others
        rate=len(there) * sum(known) / len(known) if known else 0.0,
        kv_tokens=sum(f.total_blocks * f.block_size for f in facts),
        discipline=facts[0].discipline if facts else RESOURCE_DEFAULTS,
    )
