"""Rules about models that several pods share; `rules` has all of them."""

from argosy_api.rule import Document, Rule, scheme


def _alone(spec: Document) -> bool:
    return bool(spec["parallelism"]["pipeline"] == 1)


_ALONE = "self.parallelism.pipeline == 1"

RULES: tuple[Rule, ...] = (
    Rule(
        "spec.parallelism", "tensor",
        "self.tensor == 1",
        "must be 1: this version cuts a model between layers (pipeline), and no layer into parts",
        lambda p: p["tensor"] == 1,
    ),
    Rule(
        "spec", "parallelism.pipeline",
        f"{_ALONE} || !self.model.uri.startsWith('sim://')",
        "must be 1 for sim:// models, which have no layers",
        lambda s: _alone(s) or scheme(s) != "sim",
    ),
    Rule(
        "spec", "parallelism.pipeline",
        f"{_ALONE} || !has(self.disaggregation)",
        "must be 1 with disaggregation: blocks of a group go to no other worker",
        lambda s: _alone(s) or "disaggregation" not in s,
    ),
    Rule(
        "spec", "parallelism.pipeline",
        f"{_ALONE} || !has(self.engine.speculative.model)",
        "must be 1 with engine.speculative.model; method ngram guesses without a model",
        lambda s: _alone(s) or "model" not in s["engine"]["speculative"],
    ),
    Rule(
        "spec", "parallelism.pipeline",
        f"{_ALONE} || !has(self.engine.kvCacheHostMemory)",
        "must be 1 with engine.kvCacheHostMemory: a group keeps no evicted blocks",
        lambda s: _alone(s) or "kvCacheHostMemory" not in s["engine"],
    ),
)  # fmt: skip
