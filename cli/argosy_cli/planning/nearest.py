"""What would fit where something does not: smaller or other choices that the device can run. Pure."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from argosy_api.errors import ModelUnsupportedError
from argosy_api.gpus import GPUS
from argosy_api.memory import TENSOR_PARALLEL, Budget, MemoryPlan, Needs, divide, size

USEFUL_CONTEXT = 8192
"""Tokens of a request that a machine should hold at least, where nobody says how long they are."""
_LEAST_CONTEXT = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What was asked for, in the resource's own terms."""

    weights: str
    kv_cache: str
    block_size: int
    asked: int | None
    wanted: int | None
    host: int = 0
    ranks: int = 1
    """Processes that share the model."""

    def plan(self, needs: Needs, budget: Budget) -> MemoryPlan:
        """How it divides."""
        return divide(needs, budget, block_size=self.block_size, asked=self.asked, wanted=self.wanted, host=self.host)


NeedsOf = Callable[[str, str], Needs]
"""Weights and KV type -> what the model takes so; raises ModelUnsupportedError where the device cannot."""


def nearest(choice: Choice, needs_of: NeedsOf, budget: Budget) -> list[str]:
    """Changes, one at a time, with each of which it would fit; what costs least first."""
    needs = needs_of(choice.weights, choice.kv_cache)
    return [
        *_less(choice, needs, budget),
        *_other_types(choice, needs_of, budget),
        *_more(choice, needs, budget),
    ]


def _less(choice: Choice, needs: Needs, budget: Budget) -> Iterator[str]:
    """A shorter context, or a smaller cache."""
    free = divide(needs, budget, block_size=choice.block_size, host=choice.host)
    if free.cache is None:
        return
    if choice.asked is not None and choice.plan(needs, budget).cache is None:
        yield f"spec.engine.kvCacheMemory left out ({size(free.kv)} would be taken)"
    longest = free.cache.longest // _LEAST_CONTEXT * _LEAST_CONTEXT
    if choice.asked is None and choice.wanted is not None and longest:
        yield f"spec.model.maxModelLen {min(longest, choice.wanted)}"


def _other_types(choice: Choice, needs_of: NeedsOf, budget: Budget) -> Iterator[str]:
    tries = [("kvCache", choice.weights, kv) for kv in ("fp16", "bf16", "int8")]
    tries += [("weights", weights, choice.kv_cache) for weights in ("int8", "int4")]
    tries.append(("both", "int4", "int8"))
    found: set[str] = set()
    for field, weights, kv in tries:
        try:
            fits = choice.plan(needs_of(weights, kv), budget).fits
        except ModelUnsupportedError:
            continue
        if not fits or field in found or (field == "both" and found):
            continue
        found.add(field)
        words = {
            "kvCache": f"spec.quantization.kvCache {kv}",
            "weights": f"spec.quantization.weights {weights}",
            "both": f"spec.quantization.weights {weights} with kvCache {kv}",
        }
        yield words[field]


def _more(choice: Choice, needs: Needs, budget: Budget) -> Iterator[str]:
    if budget.device == "cpu":
        yield f"spec.resources.memory {_least_memory(choice, needs, budget) >> 20}Mi"
        return
    larger = [gpu for gpu in GPUS.values() if gpu.usable > budget.total]
    fitting = [g.name for g in larger if choice.plan(needs, Budget(total=g.usable, device="cuda")).fits]
    if fitting:
        yield f"a larger GPU: {fitting[0]}"
    count = gpus_needed(choice, needs, budget)
    if count and choice.ranks == 1 and count <= needs.kv_heads:  # no head is cut
        yield (
            f"spec.parallelism.tensor {count}: {count} such GPUs, one in each pod, or with spec.resources.gpu.count "
            f"{count} all in one"
        )


def _least_memory(choice: Choice, needs: Needs, budget: Budget) -> int:
    """The smallest memory, in steps of 64 MiB, with which it fits and holds one request."""
    step, low = 64 << 20, budget.total
    high = (
        low
        + 2 * (needs.weights + (choice.asked or 0) + choice.host + (choice.wanted or 1) * needs.kv_token)
        + (1 << 30)
    )
    while high - low > step:
        middle = (low + high) // 2
        low, high = (low, middle) if choice.plan(needs, Budget(total=middle, device="cpu")).fits else (middle, high)
    return -(-high // step) * step


def gpus_needed(choice: Choice, needs: Needs, budget: Budget) -> int:
    """GPUs that share every layer, with which a request of a useful length fits; 0 where 16 are too few."""
    length = choice.wanted or min(needs.context, USEFUL_CONTEXT)
    for count in TENSOR_PARALLEL:
        if needs.heads % count == 0:
            plan = choice.plan(needs.on(count), budget)
            if plan.fits and plan.tokens >= length:
                return count
    return 0
