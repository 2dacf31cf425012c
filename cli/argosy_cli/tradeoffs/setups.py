"""What is measured: every choice that the resource offers, one at a time, beside the reference."""

from dataclasses import dataclass
from typing import get_args

from argosy_api.resource import EngineSpec, QuantizationSpec, SpeculativeSpec

_OFF = SpeculativeSpec(method="off")


@dataclass(frozen=True, slots=True)
class Setup:
    """How a worker is set up for one row of the table."""

    name: str
    engine: EngineSpec
    quantization: QuantizationSpec


def setups(threads: int | None, draft: str | None) -> list[Setup]:
    """The reference first (weights as they are stored, everything in fp32), then what differs from it in one thing.

    `draft` is the URI of a draft model; without one that kind of speculation is left out. `default` is the resource
    with nothing said.
    """
    plain = EngineSpec(compute="fp32", threads=threads, speculative=_OFF)
    exact = QuantizationSpec(weights="none", kv_cache="fp32")
    found = [Setup("fp32", plain, exact)]
    own = EngineSpec(threads=threads, speculative=_OFF)
    for weights in _choices(QuantizationSpec, "weights", "auto", "none"):
        chosen = QuantizationSpec.model_validate({"weights": weights, "kvCache": "auto"})
        found.append(Setup(f"weights {weights}", own, chosen))
    for kv in _choices(QuantizationSpec, "kv_cache", "auto", "fp32"):
        chosen = QuantizationSpec.model_validate({"weights": "none", "kvCache": kv})
        found.append(Setup(f"KV cache {kv}", plain, chosen))
    for method in _choices(SpeculativeSpec, "method", "auto", "off", *(() if draft else ("draft",))):
        asked = {"method": method, **({"model": draft} if method == "draft" else {})}
        guessing = plain.model_copy(update={"speculative": SpeculativeSpec.model_validate(asked)})
        found.append(Setup(f"speculation {method}", guessing, exact))
    found.append(Setup("default", EngineSpec(threads=threads), QuantizationSpec()))
    return found


def _choices(kind: type[QuantizationSpec | SpeculativeSpec], field: str, *without: str) -> list[str]:
    """The values of a field of the resource, less some."""
    return [value for value in get_args(kind.model_fields[field].annotation) if value not in without]
