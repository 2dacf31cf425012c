"""Rules about models that several processes share; `rules` has all of them."""

from collections.abc import Callable, Iterator

from argosy_api import arrangement, limits
from argosy_api.rule import Document, Rule, scheme

_MOST = limits.MAX_PIPELINE

_REFUSED: tuple[tuple[str, str, Callable[[Document], bool]], ...] = (
    (
        "self.model.uri.startsWith('sim://')",
        "must be 1 for sim:// models, which have no layers",
        lambda s: scheme(s) == "sim",
    ),
    (
        "has(self.disaggregation)",
        "must be 1 with disaggregation: blocks of a group go to no other worker",
        lambda s: "disaggregation" in s,
    ),
    (
        "has(self.engine.speculative.model)",
        "must be 1 with engine.speculative.model; method ngram guesses without a model",
        lambda s: "model" in s["engine"]["speculative"],
    ),
    (
        "has(self.engine.kvCacheHostMemory)",
        "must be 1 with engine.kvCacheHostMemory: a group keeps no evicted blocks",
        lambda s: "kvCacheHostMemory" in s["engine"],
    ),
)
"""What does not go with a group: CEL, why, and the same in Python."""


def _rules() -> Iterator[Rule]:
    yield Rule(
        "spec.parallelism", "tensor",
        f"self.tensor * self.pipeline <= {_MOST}",
        f"times pipeline must be at most {_MOST}",
        lambda p: bool(p["tensor"] * p["pipeline"] <= _MOST),
    )  # fmt: skip
    yield Rule(
        "spec", "resources.gpu.count",
        "!has(self.resources.gpu) || self.parallelism.tensor % self.resources.gpu.count == 0 || "
        "(self.resources.gpu.count % self.parallelism.tensor == 0 && "
        "(self.parallelism.tensor * self.parallelism.pipeline) % self.resources.gpu.count == 0)",
        arrangement.MESSAGE,
        lambda s: arrangement.possible(
            s["parallelism"]["tensor"], s["parallelism"]["pipeline"], s["resources"].get("gpu", {"count": 1})["count"]
        ),
    )  # fmt: skip
    for name in ("pipeline", "tensor"):
        for cel, message, refused in _REFUSED:
            yield Rule(
                "spec", f"parallelism.{name}",
                f"self.parallelism.{name} == 1 || !{cel}",
                message,
                lambda s, name=name, refused=refused: s["parallelism"][name] == 1 or not refused(s),  # type: ignore[misc]
            )  # fmt: skip


RULES: tuple[Rule, ...] = tuple(_rules())
