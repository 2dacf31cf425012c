"""Rules over several fields of a resource: each is a CEL expression for the API server and the same in Python.

`crd` puts the CEL into the CustomResourceDefinition; embedded mode, which has no API server, runs the Python. A test
on a real API server holds the two against each other.
"""

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from argosy_api import quantity
from argosy_api.errors import InvalidArgumentError
from argosy_api.model_uri import ModelUri

MAX_NAME = 40
"""Longest name of a resource: children add suffixes, and label values end at 63."""

NAME = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
"""A resource's name is the beginning of its Service's, and Services want DNS-1035 labels."""
QUALIFIED_NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z]([-a-z0-9]*[a-z0-9])?$"
"""What `namespace/name` of a resource looks like."""

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """What must hold. `at` is the path of the object that `cel` calls self; `field` is the one to blame, below it."""

    at: str
    field: str
    cel: str
    message: str
    holds: Callable[[Document], bool]
    """Over the object at `at`, with defaults filled in."""


def _scheme(spec: Document) -> str:
    return ModelUri.parse(spec["model"]["uri"]).scheme


def _has_hub_model(spec: Document) -> bool:
    draft = spec["engine"]["speculative"].get("model", "")
    return _scheme(spec) == "hf" or draft.startswith("hf://")


_HUB_MODEL = (
    "self.model.uri.startsWith('hf://') || "
    "(has(self.engine.speculative.model) && self.engine.speculative.model.startsWith('hf://'))"
)


def _size(at: str, field: str) -> Rule:
    """A size comes to a byte at least: 512m is half a byte, where 512Mi was meant."""
    this = f"self.{field}"
    # strings that are no quantities are the pattern's business, and `quantity` must not meet them
    text = f"!isQuantity(string({this})) || quantity(string({this})).compareTo(quantity('1')) >= 0"
    return Rule(
        at, field,
        f"!has({this}) || (type({this}) == int ? int({this}) >= 1 : {text})",
        "must be at least one byte (m is a thousandth of one; write 512Mi or 2Gi)",
        lambda d: field not in d or quantity.parse(d[field]) >= 1,
    )  # fmt: skip


_COMPUTED = ("none/fp32", "none/bf16", "fp16/fp32", "bf16/fp32", "bf16/bf16", "fp8/fp32", "int8/int8", "int8/fp32")
"""Weights with an arithmetic that reads them; int4 goes with auto alone."""

RULES: tuple[Rule, ...] = (
    Rule(
        "", "metadata.name",
        f"size(self.metadata.name) <= {MAX_NAME}",
        f"must have at most {MAX_NAME} characters, because the names of its children are longer",
        lambda d: len(d["metadata"]["name"]) <= MAX_NAME,
    ),
    Rule(
        "", "metadata.name",
        f"self.metadata.name.matches('{NAME}')",
        "must be a lower-case letter, then such letters, digits and dashes, for a Service is named after it",
        lambda d: re.fullmatch(NAME, d["metadata"]["name"]) is not None,
    ),
    Rule(
        "spec.model", "servedName",
        f"!has(self.servedName) || !self.servedName.matches('{QUALIFIED_NAME}')",
        "looks like namespace/name, which requests use for the resource of that name; an upper-case letter, "
        "a dot or a second slash makes it another",
        lambda m: "servedName" not in m or re.fullmatch(QUALIFIED_NAME, m["servedName"]) is None,
    ),
    Rule(
        "spec.model", "uri",
        "!self.uri.contains('%00')",
        "holds a null character",
        lambda m: "%00" not in m["uri"],
    ),
    Rule(
        "spec", "model.tokenSecretRef",
        f"!has(self.model.tokenSecretRef) || {_HUB_MODEL}",
        "is only for hf:// models",
        lambda s: "tokenSecretRef" not in s["model"] or _has_hub_model(s),
    ),
    Rule(
        "spec", "modelCache",
        f"!has(self.modelCache) || {_HUB_MODEL}",
        "is only for hf:// models, which are downloaded; others are read where they are",
        lambda s: "modelCache" not in s or _has_hub_model(s),
    ),
    Rule(
        "spec", "resources.gpu",
        "!has(self.resources.gpu) || self.engine.device != 'cpu'",
        "is set, but engine.device is cpu: remove one of them",
        lambda s: "gpu" not in s["resources"] or s["engine"]["device"] != "cpu",
    ),
    Rule(
        "spec", "resources.gpu",
        "!has(self.resources.gpu) || !self.model.uri.startsWith('sim://')",
        "is set, but sim:// models use no GPU",
        lambda s: "gpu" not in s["resources"] or _scheme(s) != "sim",
    ),
    Rule(
        "spec", "quantization",
        "!self.model.uri.startsWith('sim://') || (self.quantization.weights == 'auto'"
        " && self.quantization.kvCache == 'auto')",
        "is set, but sim:// models hold neither weights nor keys",
        lambda s: _scheme(s) != "sim" or "auto" == s["quantization"]["weights"] == s["quantization"]["kvCache"],
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
    _size("spec.engine", "kvCacheMemory"),
    _size("spec.engine", "kvCacheHostMemory"),
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
    _size("spec.resources", "memory"),
    _size("spec.modelCache", "size"),
    Rule(
        "spec.resources", "cpu",
        "type(self.cpu) != int || int(self.cpu) >= 0",
        "must not be negative",
        lambda r: quantity.parse(r["cpu"]) >= 0,
    ),
    Rule(
        "spec.modelCache", "claimName",
        "(self.type == 'pvc') == has(self.claimName)",
        "is needed with type pvc, and only then",
        lambda c: (c["type"] == "pvc") == ("claimName" in c),
    ),
    Rule(
        "spec.modelCache", "size",
        "!has(self.size) || self.type == 'emptyDir'",
        "is only for type emptyDir; a claim has its own size",
        lambda c: "size" not in c or c["type"] == "emptyDir",
    ),
    Rule(
        "spec", "replicas",
        "!has(self.disaggregation) || self.replicas == 1",
        "counts workers that do everything, and there are none with disaggregation: leave it out, and set "
        "disaggregation.prefill.replicas and disaggregation.decode.replicas",
        lambda s: "disaggregation" not in s or s["replicas"] == 1,
    ),
    Rule(
        "spec", "engine.prefixCaching",
        "!has(self.disaggregation) || self.engine.prefixCaching",
        "must be true with disaggregation: prompts go from worker to worker as cached blocks",
        lambda s: "disaggregation" not in s or s["engine"]["prefixCaching"],
    ),
    Rule(
        "spec", "replicas",
        "!has(self.autoscaling) || self.replicas == 1",
        "is decided by autoscaling: leave it out (it is 1 then, and means nothing), or remove autoscaling to set it",
        lambda s: "autoscaling" not in s or s["replicas"] == 1,
    ),
    Rule(
        "spec", "autoscaling",
        "!has(self.autoscaling) || !has(self.disaggregation)",
        "counts workers that do everything, and there are none with disaggregation",
        lambda s: "autoscaling" not in s or "disaggregation" not in s,
    ),
    Rule(
        "spec.autoscaling", "minReplicas",
        "self.minReplicas <= self.maxReplicas",
        "must be at most maxReplicas",
        lambda a: a["minReplicas"] <= a["maxReplicas"],
    ),
    Rule(
        "spec.autoscaling", "metrics",
        "self.metrics.all(m, self.metrics.exists_one(n, n.type == m.type))",
        "must have each type once",
        lambda a: len({m["type"] for m in a["metrics"]}) == len(a["metrics"]),
    ),
    Rule(
        "spec.autoscaling", "metrics",
        "self.metrics.all(m, m.type != 'kvUsage' || m.target <= 1.0)",
        "has a target of kvUsage above 1; it is a part of the KV cache, as 0.8",
        lambda a: all(m["type"] != "kvUsage" or m["target"] <= 1 for m in a["metrics"]),
    ),
    Rule(
        # the API server holds a whole number against a `minimum` with its fraction cut off, so 0 passes 0.001
        "spec.autoscaling", "metrics",
        "self.metrics.all(m, m.target >= 0.001)",
        "has a target below 0.001",
        lambda a: all(m["target"] >= 0.001 for m in a["metrics"]),
    ),
    Rule(
        "spec.autoscaling", "schedule",
        "self.schedule.all(s, s.minReplicas <= self.maxReplicas)",
        "must have minReplicas of at most maxReplicas",
        lambda a: all(s["minReplicas"] <= a["maxReplicas"] for s in a["schedule"]),
    ),
    Rule(
        "spec", "routing.fetchBlocks",
        "!has(self.disaggregation) || self.routing.fetchBlocks",
        "must be true with disaggregation: decode workers fetch what prefill workers computed",
        lambda s: "disaggregation" not in s or s["routing"]["fetchBlocks"],
    ),
    Rule(
        "spec.rollout", "maxSurge",
        "self.strategy == 'Recreate' || self.maxSurge > 0 || self.maxUnavailable > 0",
        "and maxUnavailable are both 0: nothing could ever be replaced",
        lambda r: r["strategy"] == "Recreate" or r["maxSurge"] > 0 or r["maxUnavailable"] > 0,
    ),
    Rule(
        "spec.rollout", "canary",
        "(self.strategy == 'Canary') == has(self.canary)",
        "is needed with strategy Canary, and only then",
        lambda r: (r["strategy"] == "Canary") == ("canary" in r),
    ),
    Rule(
        "spec.rollout.canary", "steps",
        "self.steps.map(step, step.weight).isSorted()",
        "must not go down in weight",
        lambda c: all(a["weight"] <= b["weight"] for a, b in itertools.pairwise(c["steps"])),
    ),
    Rule(
        "spec.rollout", "partition",
        "self.partition == 0 || self.strategy == 'RollingUpdate'",
        "is for strategy RollingUpdate",
        lambda r: r["partition"] == 0 or r["strategy"] == "RollingUpdate",
    ),
    Rule(
        "spec", "rollout.strategy",
        "!has(self.disaggregation) || self.rollout.strategy != 'Canary'",
        "Canary is for workers that do everything, not for disaggregation",
        lambda s: "disaggregation" not in s or s["rollout"]["strategy"] != "Canary",
    ),
    Rule(
        "spec", "rollout.partition",
        "!has(self.disaggregation) || self.rollout.partition == 0",
        "is for workers that do everything, not for disaggregation",
        lambda s: "disaggregation" not in s or s["rollout"]["partition"] == 0,
    ),
)  # fmt: skip


def check(document: Document) -> None:
    """Refuse a resource (as written in YAML, defaults filled in, nothing that is unset) that breaks a rule.

    Raises:
        InvalidArgumentError: with the path of the field to blame.

    """
    for rule in RULES:
        _hold(rule, document, rule.at, rule.at)


def check_part(at: str, part: Document, *, as_path: str) -> None:
    """Hold one object of a resource against the rules about it and its parts; `as_path` is what the caller calls it.

    Raises:
        InvalidArgumentError: with the path of the field to blame.

    """
    for rule in RULES:
        if f"{rule.at}.".startswith(f"{at}."):
            inside = rule.at.removeprefix(at)
            _hold(rule, part, inside, as_path + inside)


def _hold(rule: Rule, document: Document, inside: str, path: str) -> None:
    part: Any = document
    for key in filter(None, inside.split(".")):
        part = part.get(key) if isinstance(part, dict) else None
    if part is not None and not rule.holds(part):
        raise InvalidArgumentError(f"{path}.{rule.field}".lstrip("."), rule.message)
