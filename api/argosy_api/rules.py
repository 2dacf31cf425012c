"""Rules over several fields of a resource: each is a CEL expression for the API server and the same in Python.

`crd` puts the CEL into the CustomResourceDefinition; embedded mode, which has no API server, runs the Python. A test
on a real API server holds the two against each other.
"""

import itertools
import re
from collections.abc import Iterator
from typing import Any

from argosy_api import adapter_rules, engine_rules, group_rules, quantity
from argosy_api.errors import InvalidArgumentError
from argosy_api.rule import Document, Rule, scheme, size

MAX_NAME = 40
"""Longest name of a resource: children add suffixes, and label values end at 63."""

NAME = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
"""A resource's name is the beginning of its Service's, and Services want DNS-1035 labels."""
QUALIFIED_NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z]([-a-z0-9]*[a-z0-9])?$"
"""What `namespace/name` of a resource looks like."""


def _has_hub_model(spec: Document) -> bool:
    draft = spec["engine"]["speculative"].get("model", "")
    return scheme(spec) == "hf" or draft.startswith("hf://")


_HUB_MODEL = (
    "self.model.uri.startsWith('hf://') || "
    "(has(self.engine.speculative.model) && self.engine.speculative.model.startsWith('hf://'))"
)


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
        lambda s: "gpu" not in s["resources"] or scheme(s) != "sim",
    ),
    *adapter_rules.RULES,
    *engine_rules.RULES,
    *group_rules.RULES,
    size("spec.resources", "memory"),
    size("spec.modelCache", "size"),
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
        "spec.autoscaling", "minReplicas",
        "self.minReplicas > 0 || has(self.scaleToZero)",
        "of 0 needs scaleToZero: when the last worker goes, and how long requests are held ({} takes its defaults)",
        lambda a: a["minReplicas"] > 0 or "scaleToZero" in a,
    ),
    Rule(
        "spec.autoscaling", "scaleToZero",
        "!has(self.scaleToZero) || self.minReplicas == 0",
        "is only for minReplicas 0",
        lambda a: "scaleToZero" not in a or a["minReplicas"] == 0,
    ),
    Rule(
        "spec", "routing.holdSeconds",
        "self.routing.holdSeconds == 0 || !has(self.autoscaling) || !has(self.autoscaling.scaleToZero)",
        "is what autoscaling.scaleToZero.holdSeconds says: remove one of them",
        lambda s: not s["routing"]["holdSeconds"] or "scaleToZero" not in s.get("autoscaling", {}),
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


def violations(document: Document) -> Iterator[InvalidArgumentError]:
    """Every rule that a resource breaks, with the path of the field to blame. It is as in YAML, defaults filled in."""
    for rule in RULES:
        try:
            _hold(rule, document, rule.at, rule.at)
        except InvalidArgumentError as error:
            yield error


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
