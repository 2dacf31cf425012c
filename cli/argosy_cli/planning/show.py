"""A memory plan for people: a bar, what is in it, and a sentence. The same characters in a pipe, without colour."""

from dataclasses import dataclass, field

from rich.console import Console
from rich.text import Text

from argosy_api.memory import MemoryPlan, size

WIDTH = 60
_STYLES = {"#": "cyan", "o": "magenta", "=": "green", "h": "blue", ".": "dim", "!": "red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A resource on a device."""

    name: str
    model: str
    workers: int
    ranks: int = 1
    """Processes of a worker, each of which takes what is planned."""
    pods: int = 1
    """Of a worker; where they are fewer, each has several GPUs."""
    place: str
    """`rtx4090`, or `memory`."""
    weights: str
    """How they are held, and are stored: `int8 (from Q4_1)`."""
    kv_cache: str
    context: int
    """Tokens of the requests that concurrency is told for."""
    plan: MemoryPlan
    nearest: list[str] = field(default_factory=list)
    gpus: int = 1
    """With tensor parallelism: how many are needed; 0: more than 16. Of a group: its own; 0 where it does not fit."""


def bar(plan: MemoryPlan, width: int = WIDTH) -> str:
    """`#` weights, `o` process, `=` KV cache, `h` evicted blocks, `a` adapters, `.` free.

    What does not fit is `!`, beyond the end `|` of the memory.
    """
    parts = (
        ("#", plan.needs.weights),
        ("o", plan.process),
        ("=", plan.kv),
        ("h", plan.host),
        ("a", plan.needs.adapters),
    )
    whole = max(plan.budget.total, sum(nbytes for _, nbytes in parts))
    drawn, taken = "", 0
    for mark, nbytes in parts:
        taken += nbytes
        drawn += mark * (round(taken / whole * width) - len(drawn))
    drawn += "." * (width - len(drawn))
    end = round(plan.budget.total / whole * width)
    return f"[{drawn[:end]}|{'!' * (width - end)}]" if end < width else f"[{drawn}]"


def sentence(item: Planned) -> str:
    """Whether it fits, why, and what would."""
    plan = item.plan
    if plan.cache is None:
        nearest = f" It would fit with: {'; or '.join(item.nearest)}." if item.nearest else ""
        return f"Does not fit: {plan.problem}.{nearest}"
    words = (
        f"Fits: {plan.tokens:,} tokens of KV cache, {plan.concurrency(item.context):.1f} requests of "
        f"{item.context:,} tokens at a time."
    )
    if plan.cache.longest < plan.needs.context:
        words += f" A request may have {plan.cache.longest:,} tokens (the model: {plan.needs.context:,})."
    if plan.rest < plan.needs.step:
        words += (
            f" Little is left for the largest step, which takes about {size(plan.needs.step)}: "
            "lower spec.engine.maxBatchTokens or kvCacheMemory."
        )
    return words


def show(console: Console, item: Planned) -> None:
    """Print it."""
    plan = item.plan
    workers = "1 worker" if item.workers == 1 else f"{item.workers} workers, each"
    if item.ranks > 1:
        apart = f" x {item.pods} pods" if item.pods > 1 else ""
        local = f" x {item.ranks // item.pods} GPUs" if item.ranks > item.pods else ""
        workers = f"{item.workers}{apart}{local}, each"
    title = f"{item.name}: {item.model}, {workers} with {size(plan.budget.total)} ({item.place})"
    console.print(Text(title, "bold"), soft_wrap=True)
    drawn = Text("  ")
    for mark in bar(plan):
        drawn.append(mark, _STYLES.get(mark, ""))
    console.print(drawn, soft_wrap=True)
    legend = (
        f"  # weights {size(plan.needs.weights)}, {item.weights}   o process {size(plan.process)}   "
        f"= KV cache {size(plan.kv)}, {item.kv_cache}, {size(plan.needs.kv_token)} a token   "
        + (f"h evicted blocks {size(plan.host)}   " if plan.host else "")
        + (f"a adapters {size(plan.needs.adapters)}   " if plan.needs.adapters else "")
        + (f". free {size(plan.rest)}" if plan.rest >= 0 else f"! missing {size(-plan.rest)}")
    )
    console.print(legend, soft_wrap=True, highlight=False, markup=False)
    console.print(f"  {sentence(item)}", soft_wrap=True, highlight=False, markup=False)


def document(item: Planned) -> dict[str, object]:
    """The same for programs; sizes in bytes."""
    plan = item.plan
    return {
        "name": item.name,
        "model": item.model,
        "place": item.place,
        "workers": item.workers,
        "ranks": item.ranks,
        "pods": item.pods,
        "fits": plan.fits,
        "problem": plan.problem,
        "nearest": item.nearest,
        "totalBytes": plan.budget.total,
        "processBytes": plan.process,
        "weightsBytes": plan.needs.weights,
        "kvCacheBytes": plan.kv,
        "kvBytesPerToken": plan.needs.kv_token,
        "kvCacheHostBytes": plan.host,
        "adapterBytes": plan.needs.adapters,
        "freeBytes": plan.rest,
        "stepBytes": plan.needs.step,
        "kvTokens": plan.tokens,
        "maxModelLen": plan.cache.longest if plan.cache is not None else 0,
        "modelContext": plan.needs.context,
        "concurrency": round(plan.concurrency(item.context), 2),
        "concurrencyContext": item.context,
        "gpusNeeded": item.gpus,
    }
