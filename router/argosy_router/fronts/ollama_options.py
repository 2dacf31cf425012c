"""Ollama's `options` out of JSON, into sampling parameters."""

from collections.abc import Mapping

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError
from argosy_api.params import SamplingParams
from argosy_router.fronts.fields import Fields
from argosy_router.fronts.sampling import take_stop

_TEMPERATURE, _TOP_K, _TOP_P = 0.8, 40, 0.9
"""What Ollama samples with where a request says nothing."""
_PATH = "options."
NAMES: Mapping[str, str] = {
    "max_tokens": "options.num_predict",
    "repetition_penalty": "options.repeat_penalty",
    **{
        name: f"options.{name}"
        for name in (
            "temperature", "top_k", "top_p", "min_p", "typical_p", "presence_penalty", "frequency_penalty", "seed",
            "stop",
        )
    },
}  # fmt: skip
"""Of our fields."""
_LOADING = (
    "num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep", "numa", "low_vram", "f16_kv", "logits_all",
    "vocab_only", "use_mmap", "use_mlock", "embedding_only",
)  # fmt: skip
"""How a model is loaded: that is its resource's matter."""


def take_options(fields: Fields, *, logprobs: int | None) -> tuple[SamplingParams, bool, tuple[str, ...]]:
    """The parameters, whether they say how long the answer may be, and which options have no effect.

    Raises:
        InvalidArgumentError: naming an option that is wrong, or cannot be honoured.

    """
    value = fields.raw("options")
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise fields.wrong("options", value, "an object")
    options = Fields(value, path=_PATH)
    most = options.integer("num_predict")
    if most in (-1, -2):  # no end but that of the answer, or of the context
        most = None
    if most is not None and not 1 <= most <= limits.MAX_TOKENS:
        raise InvalidArgumentError(f"{_PATH}num_predict", f"is {most}; must be 1 to {limits.MAX_TOKENS}, -1 or -2")
    top_k, seed = options.integer("top_k"), options.integer("seed")
    repetition, presence = options.number("repeat_penalty"), options.number("presence_penalty")
    frequency, min_p, typical = (
        options.number("frequency_penalty"),
        options.number("min_p"),
        options.number("typical_p"),
    )
    temperature, top_p = options.number("temperature"), options.number("top_p")
    params = SamplingParams(
        max_tokens=1 if most is None else most,
        temperature=_TEMPERATURE if temperature is None else temperature,
        top_k=_TOP_K if top_k is None else max(top_k, 0),
        top_p=_TOP_P if top_p is None else top_p,
        min_p=min_p or 0.0,
        typical_p=1.0 if typical is None else typical,
        repetition_penalty=1.0 if repetition is None else repetition,
        presence_penalty=presence or 0.0,
        frequency_penalty=frequency or 0.0,
        seed=None if seed == -1 else seed,
        stop=take_stop(options, "stop"),
        logprobs=logprobs,
    )
    for name, *allowed in (("mirostat", 0), ("tfs_z", 1), ("penalize_newline", True)):
        options.neutral(name, *allowed)
    if (params.repetition_penalty, params.presence_penalty, params.frequency_penalty) != (1.0, 0.0, 0.0):
        options.neutral("repeat_last_n", -1)  # penalties count all that was said
    for name in ("repeat_last_n", "mirostat_tau", "mirostat_eta", *_LOADING):
        options.passed_over(name)
    options.end()
    return params, most is not None, tuple(options.ignored)
