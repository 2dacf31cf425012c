"""Rules about how the engine runs and in what numbers it computes; `rules` has all of them."""

from argosy_api import quantity
from argosy_api.rule import Rule, scheme, size

_COMPUTED = ("none/fp32", "none/bf16", "fp16/fp32", "bf16/fp32", "bf16/bf16", "fp8/fp32", "int8/int8", "int8/fp32")
"""Weights with an arithmetic that reads them; int4 goes with auto alone."""

RULES: tuple[Rule, ...] = (
    Rule(
        "spec", "quantization",
        "!self.model.uri.startsWith('sim://') || (self.quantization.weights == 'auto'"
        " && self.quantization.kvCache == 'auto')",
        "is set, but sim:// models hold neither weights nor keys",
        lambda s: scheme(s) != "sim" or "auto" == s["quantization"]["weights"] == s["quantization"]["kvCache"],
    ),
    Rule(
        "spec", "quantization.weights",
        "self.engine.compute == 'auto' || self.quantization.weights == 'auto'"
        f" || (self.quantization.weights + '/' + self.engine.compute) in {list(_COMPUTED)}",
        "and engine.compute contradict each other; leave engine.compute at auto, which fits the weights",
        lambda s: s["engine"]["compute"] == "auto"
        or s["quantization"]["weights"] == "auto"
        or f"{s['quantization']['weights']}/{s['engine']['compute']}" in _COMPUTED,
    ),
    Rule(
        "spec.quantization", "groupSize",
        "!has(self.groupSize) || self.weights in ['int4', 'int8']",
        "is for weights int4 and int8",
        lambda q: "groupSize" not in q or q["weights"] in ("int4", "int8"),
    ),
    Rule(
        "spec.quantization", "groupSize",
        "!has(self.groupSize) || self.groupSize in [32, 64, 128, 256]",
        "must be 32, 64, 128 or 256",
        lambda q: q.get("groupSize", 32) in (32, 64, 128, 256),
    ),
    Rule(
        "spec.engine", "compute",
        "self.compute != 'bf16' || self.device != 'cpu'",
        "bf16 is for GPUs; on a CPU use int8 or fp32",
        lambda e: e["compute"] != "bf16" or e["device"] != "cpu",
    ),
    Rule(
        "spec.engine", "compute",
        "self.compute != 'int8' || self.device != 'cuda'",
        "int8 is for CPUs in this version; on a GPU use bf16 or fp32",
        lambda e: e["compute"] != "int8" or e["device"] != "cuda",
    ),
    Rule(
        "spec.engine", "blockSize",
        "self.blockSize in [8, 16, 32, 64, 128]",
        "must be 8, 16, 32, 64 or 128",
        lambda e: e["blockSize"] in (8, 16, 32, 64, 128),
    ),
    Rule(
        "spec.engine", "maxBatchTokens",
        "self.maxBatchTokens >= self.maxRunning",
        "must be at least maxRunning: each running request needs one token of every step",
        lambda e: e["maxBatchTokens"] >= e["maxRunning"],
    ),
    Rule(
        "spec.engine", "batchSize",
        "!has(self.batchSize) || self.batching != 'continuous'",
        "is only for batching dynamic and static",
        lambda e: "batchSize" not in e or e["batching"] != "continuous",
    ),
    Rule(
        "spec.engine", "batchSize",
        "!has(self.batchSize) || self.batchSize <= self.maxRunning",
        "must be at most maxRunning: a batch runs as a whole",
        lambda e: e.get("batchSize", 1) <= e["maxRunning"],
    ),
    Rule(
        "spec.engine", "batchWaitSeconds",
        "!has(self.batchWaitSeconds) || self.batching != 'continuous'",
        "is only for batching dynamic and static",
        lambda e: "batchWaitSeconds" not in e or e["batching"] != "continuous",
    ),
    Rule(
        # likewise: 0 passes 0.05
        "spec.engine", "maxPromptShare",
        "self.maxPromptShare >= 0.05",
        "must be at least 0.05",
        lambda e: e["maxPromptShare"] >= 0.05,
    ),
    size("spec.engine", "kvCacheMemory"),
    size("spec.engine", "kvCacheHostMemory"),
    size("spec.engine", "adapterMemory"),
    Rule(
        "spec.engine", "kvCacheHostMemory",
        "!has(self.kvCacheHostMemory) || self.prefixCaching",
        "needs prefixCaching: without it no block outlives its request",
        lambda e: "kvCacheHostMemory" not in e or e["prefixCaching"],
    ),
    Rule(
        "spec", "engine.kvCacheHostMemory",
        "!has(self.engine.kvCacheHostMemory) || !isQuantity(string(self.engine.kvCacheHostMemory))"
        " || !isQuantity(string(self.resources.memory))"
        " || quantity(string(self.engine.kvCacheHostMemory)).compareTo(quantity(string(self.resources.memory))) < 0",
        "must be less than resources.memory, the limit of all that a worker takes of the host's memory",
        lambda s: "kvCacheHostMemory" not in s["engine"]
        or quantity.parse(s["engine"]["kvCacheHostMemory"]) < quantity.parse(s["resources"]["memory"]),
    ),
    Rule(
        "spec.engine.speculative", "model",
        "self.method != 'draft' || has(self.model)",
        "is needed with method draft: the smaller model that guesses ahead",
        lambda s: s["method"] != "draft" or "model" in s,
    ),
    Rule(
        "spec.engine.speculative", "model",
        "!has(self.model) || self.method in ['auto', 'draft']",
        "is only for methods auto and draft",
        lambda s: "model" not in s or s["method"] in ("auto", "draft"),
    ),
    Rule(
        "spec.engine.speculative", "model",
        "!has(self.model) || !self.model.contains('%00')",
        "holds a null character",
        lambda s: "%00" not in s.get("model", ""),
    ),
)  # fmt: skip
