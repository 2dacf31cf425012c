"""Whether the workers of a resource are alike: the same request should get the same answer from each. Pure."""

from collections.abc import Callable, Hashable, Mapping

from argosy_api.status import MemoryStatus, ModelStatus
from argosy_api.worker_status import ServedModel
from argosy_operator.diagnose import Reason
from argosy_operator.words import quote, some_of

_EXACT = ("", "exact")
_QUOTE = 300


def judge(served: Mapping[str, ServedModel]) -> tuple[str, Reason, str]:
    """Status, reason and message of a condition about workers by name, all of one revision."""
    if not served:
        return "Unknown", Reason.NOT_OBSERVED, "No worker has said yet what it serves."
    inexact = sorted(name for name, model in served.items() if model.exactness not in _EXACT)
    if inexact:
        why = quote(served[inexact[0]].exactness, _QUOTE)
        return "False", Reason.NOT_EXACT, f"Answers may depend on other requests at {some_of(inexact)}: {why}"
    ways = _groups(served, lambda m: (m.fingerprint, m.compute, m.instruction_set))
    if len(ways) > 1:
        text = _told(ways, served, lambda m: f"{m.compute or 'unknown'} with {m.instruction_set or 'unknown'}")
        advice = (
            "The same request can get other tokens from another of them, and they do not share cached prefixes. "
            "Choose alike nodes with spec.placement.nodeSelector, or set spec.engine.compute."
        )
        return "False", Reason.DIFFERENT_ARITHMETIC, f"The workers compute in {len(ways)} ways: {text}. {advice}"
    sizes = _groups(served, lambda m: m.max_model_len)
    if len(sizes) > 1:
        text = _told(sizes, served, lambda m: f"{m.max_model_len} tokens")
        advice = "Give them alike memory, or set spec.model.maxModelLen to what all of them can take."
        return "False", Reason.DIFFERENT_SIZE, f"The longest request differs: {text}. {advice}"
    how = "1 worker has said" if len(served) == 1 else f"{len(served)} workers are alike in"
    return "True", Reason.UNIFORM, f"{how} what is computed, how, and how long a request may be."


def model_of(served: Mapping[str, ServedModel]) -> ModelStatus | None:
    """What the resource's status says of the model: what every worker can do."""
    if not served:
        return None
    smallest = min(served.values(), key=lambda model: (model.max_model_len, model.kv_blocks_per_replica))
    return ModelStatus(**{name: getattr(smallest, name) for name in ModelStatus.model_fields})


def memory_of(served: Mapping[str, ServedModel], counted_for: str) -> MemoryStatus | None:
    """How the memory of the worker with the smallest cache divides; None where none has counted."""
    counted = [model for model in served.values() if model.weights_bytes > 0 and model.kv_bytes_per_token > 0]
    if not counted or not counted_for:
        return None
    smallest = min(counted, key=lambda model: model.kv_cache_bytes)
    return MemoryStatus(
        of=counted_for,
        weights_bytes=smallest.weights_bytes,
        kv_cache_bytes=smallest.kv_cache_bytes,
        kv_bytes_per_token=smallest.kv_bytes_per_token,
        kv_tokens=smallest.kv_cache_bytes // smallest.kv_bytes_per_token,
    )


def _groups(served: Mapping[str, ServedModel], by: Callable[[ServedModel], Hashable]) -> list[list[str]]:
    """Names of those that are alike, the largest group first."""
    groups: dict[Hashable, list[str]] = {}
    for name in sorted(served):
        groups.setdefault(by(served[name]), []).append(name)
    return sorted(groups.values(), key=lambda names: (-len(names), names[0]))


def _told(groups: list[list[str]], served: Mapping[str, ServedModel], what: Callable[[ServedModel], str]) -> str:
    return some_of([f"{what(served[names[0]])[:100]} ({some_of(names)})" for names in groups])
