"""Rules about adapters; `rules` has all of them."""

from argosy_api.rule import Document, Rule, scheme


def _all_of(spec: Document, kind: str) -> bool:
    return all(adapter["uri"].startswith(kind) for adapter in spec["adapters"])


def _any_of(spec: Document, kind: str) -> bool:
    return any(adapter["uri"].startswith(kind) for adapter in spec["adapters"])


RULES: tuple[Rule, ...] = (
    Rule(
        "spec", "adapters",
        "self.adapters.all(a, self.adapters.exists_one(b, b.name == a.name))",
        "must have each name once",
        lambda s: len({a["name"] for a in s["adapters"]}) == len(s["adapters"]),
    ),
    Rule(
        "spec", "adapters",
        "self.model.uri.startsWith('sim://') ? self.adapters.all(a, a.uri.startsWith('sim://')) : "
        "!self.adapters.exists(a, a.uri.startsWith('sim://'))",
        "of a sim:// model must be sim://name, and those of other models must not",
        lambda s: _all_of(s, "sim://") if scheme(s) == "sim" else not _any_of(s, "sim://"),
    ),
    Rule(
        "spec", "adapters",
        "self.model.uri.startsWith('pvc://') || !self.adapters.exists(a, a.uri.startsWith('pvc://'))",
        "may be pvc:// where the model is, too: no other claim is mounted, for a list may change while pods run",
        lambda s: scheme(s) == "pvc" or not _any_of(s, "pvc://"),
    ),
    Rule(
        "spec", "adapters",
        "!self.adapters.exists(a, a.uri.startsWith('oci://'))",
        "must not be oci://: images are mounted when a pod is made, and the list may change while pods run",
        lambda s: not _any_of(s, "oci://"),
    ),
    Rule(
        "spec", "adapters",
        "self.adapters.size() == 0 || (self.parallelism.pipeline == 1 && self.parallelism.tensor == 1)",
        "must be empty with parallelism above 1: a group computes the model alone",
        lambda s: not s["adapters"] or s["parallelism"]["pipeline"] == s["parallelism"]["tensor"] == 1,
    ),
)  # fmt: skip
