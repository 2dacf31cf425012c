"""OpenAI requests out of JSON. Nothing is accepted and ignored: what cannot be honoured is refused by name.

Fields that only tell us something about the client (`user`, `metadata`, …) are taken at any value.
"""

from dataclasses import replace
from typing import Any

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError
from argosy_api.params import SamplingParams
from argosy_router.ask import DEFAULT_MAX_TOKENS
from argosy_router.fronts.fields import Fields, kind
from argosy_router.fronts.oai_messages import take_messages
from argosy_router.fronts.oai_tools import take_extras, take_tools
from argosy_router.fronts.sampling import take_bad_words, take_sampling
from argosy_router.fronts.structured import take_constraint
from argosy_router.fronts.text_request import TextRequest
from argosy_router.text.messages import Prompt


def completions(document: dict[str, Any]) -> TextRequest:
    """A /v1/completions request.

    Raises:
        InvalidArgumentError: naming the first field that is wrong.

    """
    fields = Fields(document)
    model = take_model(fields)
    prompts = take_prompts(fields, "prompt", limits.MAX_PROMPTS)
    echo = fields.boolean("echo") or False
    max_tokens, logprobs = fields.integer("max_tokens"), fields.integer("logprobs")
    only_prompt = echo and max_tokens == 0
    best_of = fields.integer("best_of")
    params, given = take_sampling(
        fields,
        max_tokens=1 if only_prompt else DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens,
        logprobs=logprobs,
    )
    asked = params.prompt_logprobs is not None
    if echo and logprobs is not None:
        params = replace(params, prompt_logprobs=max(logprobs, params.prompt_logprobs or 0))
    fields.neutral("suffix", "")
    request = _common(fields, model, params, given, asked, prompts=prompts, echo=echo, only_prompt=only_prompt)
    request = _best_of(request, best_of)
    if len(prompts) * request.each > limits.MAX_PROMPTS * limits.MAX_CHOICES:
        raise InvalidArgumentError(
            "prompt", f"has {len(prompts)} prompts with {request.each} choices each: too many choices"
        )
    return request


def _best_of(request: TextRequest, best_of: int | None) -> TextRequest:
    """Which choices are the best is known by their log-probabilities, and only when all have ended."""
    if best_of is None or best_of == request.n:
        return request
    within("best_of", best_of, request.n, limits.MAX_CHOICES)
    if request.stream:
        raise InvalidArgumentError("best_of", f"is {best_of}; in a stream it must be n, which is {request.n}")
    if request.return_token_ids or request.wants_prompt_logprobs or request.echo:
        raise InvalidArgumentError("best_of", "above n goes with neither echo, return_token_ids nor prompt_logprobs")
    params = request.params
    asked = replace(params, logprobs=0) if params.logprobs is None else params
    return replace(request, best_of=best_of, params=asked, told={"logprobs": params.logprobs is not None})


def chat(document: dict[str, Any]) -> TextRequest:
    """A /v1/chat/completions request.

    Raises:
        InvalidArgumentError: naming the first field that is wrong.

    """
    fields = Fields(document)
    model = take_model(fields)
    messages = take_messages(fields)
    offer = take_tools(fields)
    extras = take_extras(fields, offer)
    old, new = fields.integer("max_tokens"), fields.integer("max_completion_tokens")
    if old is not None and new is not None and old != new:
        raise InvalidArgumentError("max_tokens", f"is {old}, but max_completion_tokens is {new}; give one of them")
    within("max_completion_tokens", new, 1, limits.MAX_TOKENS)
    wanted, top = fields.boolean("logprobs") or False, fields.integer("top_logprobs")
    if top is not None and not wanted:
        raise InvalidArgumentError("top_logprobs", "needs logprobs: true")
    within("top_logprobs", top, 0, limits.MAX_LOGPROBS)
    logprobs = (top or 0) if wanted else None
    params, given = take_sampling(fields, max_tokens=new if new is not None else old, logprobs=logprobs)
    for name, *allowed in _NEUTRAL_CHAT:
        fields.neutral(name, *allowed)
    asked = params.prompt_logprobs is not None
    request = _common(fields, model, params, given, asked, messages=messages, offer=offer, extras=extras)
    if request.constraint is not None and offer is not None and offer.parsed:
        problem = "says what the answer looks like, and so do tools that may be called; with it give tool_choice: none"
        raise InvalidArgumentError(request.constraint_field, problem)
    return request


_NEUTRAL_CHAT: tuple[tuple[Any, ...], ...] = (
    ("functions", []), ("function_call", "none", "auto"),
    ("modalities", ["text"]), ("audio",), ("prediction",), ("web_search_options",), ("reasoning_effort", "none"),
    ("verbosity",), ("add_generation_prompt", True), ("continue_final_message", False),
    ("chat_template",), ("echo", False),
)  # fmt: skip


def _common(
    fields: Fields, model: str, params: SamplingParams, given: bool, prompt_logprobs: bool, **more: Any
) -> TextRequest:
    """What both requests have, and the end of the fields."""
    n = fields.integer("n")
    within("n", n, 1, limits.MAX_CHOICES)
    stream = fields.boolean("stream") or False
    constraint, constraint_field = take_constraint(fields)
    request = TextRequest(
        model=model,
        params=params,
        max_tokens_given=given,
        n=n or 1,
        stream=stream,
        include_usage=(usage := _stream_options(fields, stream=stream))[0],
        usage_always=usage[1],
        wants_prompt_logprobs=prompt_logprobs,
        return_token_ids=fields.boolean("return_token_ids") or False,
        cache_salt=fields.string("cache_salt", limit=limits.MAX_CACHE_SALT) or "",
        priority=fields.integer("priority") or 0,
        bad_words=take_bad_words(fields),
        constraint=constraint,
        constraint_field=constraint_field,
        **more,
    )
    ignored = [name for name in _ABOUT_CLIENTS if fields.string(name, limit=1024) is not None]
    metadata = fields.raw("metadata")
    if not isinstance(metadata, dict | None):
        raise fields.wrong("metadata", metadata, "an object")
    for name, *neutral in _WITHOUT_EFFECT:
        fields.passed_over(name, *neutral)
    fields.end()
    ignored += [*(["metadata"] if metadata else ()), *fields.ignored]
    return replace(request, ignored=tuple(ignored))


_ABOUT_CLIENTS = ("user", "safety_identifier", "prompt_cache_key", "request_id")
_WITHOUT_EFFECT: tuple[tuple[Any, ...], ...] = (
    ("store", False), ("service_tier", "auto", "default"), ("keep_alive",), ("cache_prompt", True), ("id_slot", -1),
    ("parallel_tool_calls",), ("guided_decoding_backend",), ("add_special_tokens", False),
)  # fmt: skip
"""Fields of other servers, and the values at which they ask for nothing."""


def within(name: str, value: int | None, low: int, high: int) -> None:
    """Checks a field whose name is not that of the sampling parameter that they become."""
    if value is not None and not low <= value <= high:
        raise InvalidArgumentError(name, f"is {value}; must be {low} to {high}")


def take_model(fields: Fields) -> str:
    """The field `model`."""
    model = fields.string("model", limit=limits.MAX_MODEL_NAME)
    if not model:
        raise InvalidArgumentError("model", "is missing; GET /v1/models lists the names")
    return model


def _stream_options(fields: Fields, *, stream: bool) -> tuple[bool, bool]:
    """Whether usage is told at the end, and whether with every event."""
    value = fields.raw("stream_options")
    if value is None:
        return False, False
    if not isinstance(value, dict):
        raise fields.wrong("stream_options", value, "an object")
    if not stream:
        raise InvalidArgumentError("stream_options", "needs stream: true")
    options = Fields(value, path="stream_options.")
    include = options.boolean("include_usage") or False
    options.boolean("include_obfuscation")  # padding against who reads the sizes of packets; never sent
    always = options.boolean("continuous_usage_stats") or False
    options.end()
    return include, always and include


def take_prompts(fields: Fields, name: str, most: int) -> list[Prompt]:
    """A field of one or up to `most` prompts, each a text or token ids. Raises InvalidArgumentError."""
    value = fields.raw(name)
    if value is None:
        raise InvalidArgumentError(name, "is missing")
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise fields.wrong(name, value, "a string, an array of strings, of token ids, or of arrays of token ids")
    if not value:
        raise InvalidArgumentError(name, "is an empty array")
    if isinstance(value[0], int):
        check_count(len(value), name)
        return [token_ids(value, name)]
    if len(value) > most:
        raise InvalidArgumentError(name, f"has {len(value)} entries; at most {most}")
    first = type(value[0])
    prompts: list[Prompt] = []
    for i, item in enumerate(value):
        if not isinstance(item, str | list) or type(item) is not first:
            raise InvalidArgumentError(
                f"{name}[{i}]", f"is {kind(item)}; all must be strings, or all arrays of token ids"
            )
        prompts.append(item if isinstance(item, str) else token_ids(item, f"{name}[{i}]"))
    check_count(sum(len(p) for p in prompts if not isinstance(p, str)), name)
    return prompts


def check_count(ids: int, field: str = "prompt") -> None:
    """Of the token ids of one request. Raises InvalidArgumentError."""
    if ids > limits.MAX_PROMPT_IDS:
        raise InvalidArgumentError(field, f"has {ids} token ids; at most {limits.MAX_PROMPT_IDS}")


def token_ids(value: list[Any], path: str) -> list[int]:
    """An array of token ids. Raises InvalidArgumentError."""
    if set(map(type, value)) - {int}:
        i, token = next((i, t) for i, t in enumerate(value) if type(t) is not int)
        raise InvalidArgumentError(f"{path}[{i}]", f"is {kind(token)}; must be a token id")
    if value and not (min(value) >= 0 and max(value) < limits.MAX_VOCAB):
        i, token = next((i, t) for i, t in enumerate(value) if not 0 <= t < limits.MAX_VOCAB)
        raise InvalidArgumentError(f"{path}[{i}]", f"is no token id; must be 0 to {limits.MAX_VOCAB - 1}")
    return value
