"""OpenAI requests: what is understood, and what is refused, with the field's name."""

import json

import pytest

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError
from argosy_api.params import check_priority
from argosy_router.fronts import oai_parse
from argosy_router.fronts.fields import parse_json

C = {"model": "m", "prompt": "hi"}
M = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def completion(**fields):
    return oai_parse.completions({**C, **fields})


def chat(**fields):
    return oai_parse.chat({**M, **fields})


def checked(request):
    check_priority(request.ask().priority)
    request.params.check(vocab_size=1000)
    return request


def test_defaults():
    """Completions default to 16 tokens, chat to what the context leaves; temperature 1."""
    request = completion()
    assert (request.params.max_tokens, request.params.temperature, request.n, request.stream) == (16, 1.0, 1, False)
    assert request.max_tokens_given
    assert not chat().max_tokens_given
    assert chat(max_completion_tokens=9).params.max_tokens == 9


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]])],
)
def test_prompts(prompt, prompts):
    """Text, texts, ids and lists of ids."""
    assert list(oai_parse.completions({"model": "m", "prompt": prompt}).prompts) == prompts


def seed_of(request, i, *, drawn):
    return request.ask().choice_params(request.params, i, lambda: drawn).seed


def test_vllm_extensions():
    """All that can be honoured is."""
    request = completion(
        top_k=5, ignore_eos=True, min_tokens=2, stop_token_ids=[7], return_token_ids=True, prompt_logprobs=1,
        cache_salt="s", stop="x", seed=3, n=2, logprobs=4,
    )  # fmt: skip
    p = request.params
    assert (p.top_k, p.ignore_eos, p.min_tokens, p.stop_token_ids, p.prompt_logprobs) == (5, True, 2, (7,), 1)
    assert (p.stop, p.seed, p.logprobs) == (("x",), 3, 4)
    assert (request.cache_salt, request.return_token_ids, request.n) == ("s", True, 2)
    assert [seed_of(request, i, drawn=9) for i in range(2)] == [3, 4]
    assert [seed_of(completion(n=2), i, drawn=9 + i) for i in range(2)] == [9, 10]
    assert seed_of(completion(temperature=0), 1, drawn=9) is None, "the same, whatever is drawn"
    assert completion(top_k=-1).params.top_k == 0


def test_what_shapes_the_distribution():
    """Penalties, bias and the sets of tokens; neutral values are as nothing."""
    p = completion(
        min_p=0.1, typical_p=0.9, repetition_penalty=1.2, presence_penalty=-1, frequency_penalty=0.5,
        logit_bias={"50": 2, "7": -100.0}, allowed_token_ids=[7, 50], bad_words_ids=[[3], [4, 5]],
    ).params  # fmt: skip
    assert (p.min_p, p.typical_p, p.repetition_penalty, p.presence_penalty, p.frequency_penalty) == (
        0.1,
        0.9,
        1.2,
        -1,
        0.5,
    )
    assert p.logit_bias == ((7, -100.0), (50, 2)), "by token"
    assert (p.allowed_token_ids, p.bad_words_ids) == ((7, 50), ((3,), (4, 5)))
    neutral = completion(
        min_p=0, typical_p=1, repetition_penalty=1.0, presence_penalty=0, frequency_penalty=0.0, logit_bias={}, bad_words_ids=[],
    ).params  # fmt: skip
    assert neutral == completion().params


def test_echo_with_logprobs_asks_for_the_prompts():
    """The echoed prompt has log-probabilities, too."""
    request = completion(echo=True, logprobs=2)
    assert request.params.prompt_logprobs == 2
    assert not request.wants_prompt_logprobs
    assert completion(echo=True, max_tokens=0).only_prompt


NEUTRAL = [
    {"best_of": 1}, {"user": "someone"}, {"logit_bias": None}, {"allowed_token_ids": None}, {"bad_words": []},
    {"metadata": {"a": "b"}}, {"store": False}, {"service_tier": "auto"}, {"seed": None}, {"stop": None}, {"suffix": None},
    {"skip_special_tokens": True}, {"response_format": {"type": "text"}}, {"length_penalty": 1.0},
]  # fmt: skip


@pytest.mark.parametrize("fields", NEUTRAL, ids=str)
def test_neutral_values_are_taken(fields):
    """Clients send these; they ask for nothing."""
    assert completion(**fields).model == "m"


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": []},
        {"tool_choice": "none"},
        {"parallel_tool_calls": True},
        {"logprobs": False},
        {"modalities": ["text"]},
    ],
    ids=str,
)
def test_neutral_chat_values_are_taken(fields):
    """The same for chat."""
    assert chat(**fields).model == "m"


def test_content_parts():
    """Text parts are joined; developer is the newer name of system; an earlier answer comes back as it was."""
    request = oai_parse.chat({
        "model": "m",
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "c", "refusal": None, "tool_calls": None, "annotations": []},
        ],
    })  # fmt: skip
    assert request.messages == ({"role": "system", "content": "ab"}, {"role": "assistant", "content": "c"})


BAD_COMPLETIONS = [
    ({"model": None}, "model"), ({"model": ""}, "model"), ({"model": 3}, "model"), ({"model": "x" * (limits.MAX_MODEL_NAME + 1)}, "model"),
    ({"prompt": None}, "prompt"), ({"prompt": []}, "prompt"), ({"prompt": {}}, "prompt"), ({"prompt": 3}, "prompt"),
    ({"prompt": True}, "prompt"), ({"prompt": [1, "a"]}, "prompt[1]"), ({"prompt": ["a", 1]}, "prompt[1]"),
    ({"prompt": [1.5]}, "prompt[0]"), ({"prompt": [True]}, "prompt[0]"), ({"prompt": [[1], "a"]}, "prompt[1]"),
    ({"prompt": [["a"]]}, "prompt[0][0]"), ({"prompt": ["a"] * 65}, "prompt"), ({"prompt": [None]}, "prompt[0]"),
    ({"max_tokens": -1}, "max_tokens"), ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"), ({"max_tokens": True}, "max_tokens"), ({"max_tokens": 2**40}, "max_tokens"),
    ({"max_tokens": [1]}, "max_tokens"), ({"min_tokens": -1}, "min_tokens"), ({"min_tokens": 17}, "min_tokens"),
    ({"temperature": -0.1}, "temperature"), ({"temperature": 101}, "temperature"), ({"temperature": "hot"}, "temperature"),
    ({"temperature": float("nan")}, "temperature"), ({"temperature": float("inf")}, "temperature"),
    ({"temperature": True}, "temperature"), ({"top_p": 0}, "top_p"), ({"top_p": 1.1}, "top_p"), ({"top_p": -1}, "top_p"),
    ({"top_k": -2}, "top_k"), ({"top_k": 1.5}, "top_k"), ({"top_k": 2**31}, "top_k"), ({"seed": -1}, "seed"),
    ({"seed": 2**64}, "seed"), ({"seed": 1.5}, "seed"), ({"n": 0}, "n"), ({"n": 9}, "n"), ({"n": -1}, "n"), ({"n": "2"}, "n"),
    ({"n": 10**9}, "n"), ({"logprobs": -1}, "logprobs"), ({"logprobs": 21}, "logprobs"), ({"logprobs": True}, "logprobs"),
    ({"prompt_logprobs": 21}, "prompt_logprobs"), ({"prompt_logprobs": "1"}, "prompt_logprobs"),
    ({"stop": 5}, "stop"), ({"stop": ""}, "stop[0]"), ({"stop": ["a", 1]}, "stop[1]"), ({"stop": ["a"] * 17}, "stop"),
    ({"stop": "x" * 257}, "stop[0]"), ({"stop": {}}, "stop"), ({"stop": "\ud800"}, "stop[0]"),
    ({"stop_token_ids": [-1]}, "stop_token_ids[0]"), ({"stop_token_ids": [1000]}, "stop_token_ids[0]"),
    ({"stop_token_ids": "1"}, "stop_token_ids"), ({"stop_token_ids": [1.0]}, "stop_token_ids[0]"),
    ({"stop_token_ids": [1] * 65}, "stop_token_ids"), ({"stream": "yes"}, "stream"), ({"stream": 1}, "stream"),
    ({"stream_options": {}}, "stream_options"), ({"stream": True, "stream_options": []}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"stream": True, "stream_options": {"what": 1}}, "stream_options.what"), ({"echo": "true"}, "echo"),
    ({"suffix": "tail"}, "suffix"), ({"frequency_penalty": 2.1}, "frequency_penalty"),
    ({"presence_penalty": -2.1}, "presence_penalty"), ({"presence_penalty": 10**400}, "presence_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"), ({"repetition_penalty": "1"}, "repetition_penalty"),
    ({"repetition_penalty": 101}, "repetition_penalty"), ({"best_of": 9}, "best_of"),
    ({"best_of": 2, "stream": True}, "best_of"), ({"best_of": 1, "n": 2}, "best_of"), ({"best_of": 2, "echo": True}, "best_of"),
    ({"min_p": 1.1}, "min_p"), ({"min_p": -0.1}, "min_p"), ({"min_p": []}, "min_p"), ({"typical_p": 0}, "typical_p"),
    ({"typical_p": True}, "typical_p"), ({"logit_bias": [5]}, "logit_bias"), ({"logit_bias": {"x": 1}}, "logit_bias.x"),
    ({"logit_bias": {"-1": 1}}, "logit_bias.-1"), ({"logit_bias": {"1000": 1}}, "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias.5"), ({"logit_bias": {"5": "1"}}, "logit_bias.5"),
    ({"logit_bias": {"5": True}}, "logit_bias.5"), ({"logit_bias": {"5": 10**400}}, "logit_bias.5"),
    ({"logit_bias": {"5": float("nan")}}, "logit_bias.5"), ({"logit_bias": {"5": 1, "05": 2}}, "logit_bias.05"),
    ({"logit_bias": {str(i): 1 for i in range(301)}}, "logit_bias"), ({"logit_bias": {"9" * 5000: 1}}, "logit_bias." + "9" * 20),
    ({"allowed_token_ids": []}, "allowed_token_ids"), ({"allowed_token_ids": [1000]}, "allowed_token_ids[0]"),
    ({"allowed_token_ids": [1] * 8193}, "allowed_token_ids"), ({"allowed_token_ids": "all"}, "allowed_token_ids"),
    ({"bad_words_ids": [[]]}, "bad_words_ids[0]"), ({"bad_words_ids": [1]}, "bad_words_ids[0]"),
    ({"bad_words_ids": [[1], [-1]]}, "bad_words_ids[1][0]"), ({"bad_words_ids": [[1.5]]}, "bad_words_ids[0][0]"),
    ({"bad_words_ids": [[1] * 33]}, "bad_words_ids[0]"), ({"bad_words_ids": [[1]] * 129}, "bad_words_ids"),
    ({"bad_words": "x"}, "bad_words"), ({"bad_words": [""]}, "bad_words[0]"),
    ({"bad_words": ["a", 1]}, "bad_words[1]"), ({"bad_words": ["\ud800"]}, "bad_words[0]"), ({"bad_words": ["x" * 257]}, "bad_words[0]"),
    ({"bad_words": ["x"] * 129}, "bad_words"), ({"\ud800": 1}, "\\ud800"),
    ({"logit_bias": {"\ud800": 1}}, "logit_bias.\\ud800"), ({"priority": "high"}, "priority"), ({"priority": 1.5}, "priority"),
    ({"priority": 11}, "priority"), ({"priority": -11}, "priority"), ({"priority": 10**400}, "priority"),
    ({"response_format": {"type": "xml"}}, "response_format.type"), ({"guided_json": 3}, "guided_json"),
    ({"ignore_eos": 1}, "ignore_eos"), ({"cache_salt": "s" * 65}, "cache_salt"), ({"cache_salt": 5}, "cache_salt"),
    ({"return_token_ids": "x"}, "return_token_ids"), ({"user": 5}, "user"),
    ({"metadata": "x"}, "metadata"), ({"temprature": 1}, "temprature"), ({"tools": []}, "tools"), ({"": 1}, ""),
    ({"frequency_penalty": False}, "frequency_penalty"), ({"temperature": 10**400}, "temperature"), ({"max_tokens": 10**400}, "max_tokens"),
    ({"use_beam_search": True}, "use_beam_search"),
    ({"truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "field"), BAD_COMPLETIONS, ids=lambda v: str(v)[:60])
def test_bad_completions(fields, field):
    """Refused, naming the field."""
    with pytest.raises(InvalidArgumentError) as caught:
        checked(completion(**fields))
    assert caught.value.field == field


def user(**fields):
    return {"messages": [{"role": "user", "content": "hi", **fields}]}


BAD_CHATS = [
    ({"messages": None}, "messages"), ({"messages": []}, "messages"), ({"messages": "hi"}, "messages"),
    ({"messages": ["hi"]}, "messages[0]"), ({"messages": [{}]}, "messages[0].role"), (user(role="function"), "messages[0].role"),
    (user(role=5), "messages[0].role"), (user(content=None), "messages[0].content"), (user(content=5), "messages[0].content"),
    (user(content=["x"]), "messages[0].content[0]"), (user(content=[{"type": "text"}]), "messages[0].content[0].text"),
    (user(content=[{"type": "image_url", "image_url": {"url": "http://x"}}]), "messages[0].content[0].type"),
    (user(content=[{"type": "text", "text": 5}]), "messages[0].content[0].text"),
    (user(content=[{"type": "text", "text": "a", "b": 1}]), "messages[0].content[0].b"),
    (user(tool_calls=[{"id": "x"}]), "messages[0].tool_calls"), (user(name=5), "messages[0].name"),
    (user(whatever=1), "messages[0].whatever"), ({"messages": [M["messages"][0]] * 2049}, "messages"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"), ({"tool_choice": "required"}, "tool_choice"),
    ({"functions": [{}]}, "functions"), ({"top_logprobs": 3}, "top_logprobs"), ({"logprobs": 3}, "logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"), ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
    ({"max_completion_tokens": -5}, "max_completion_tokens"), ({"modalities": ["audio"]}, "modalities"),
    ({"reasoning_effort": "high"}, "reasoning_effort"), ({"chat_template": "{{ 1 }}"}, "chat_template"),
    ({"prompt": "x"}, "prompt"), ({"echo": True}, "echo"), ({"prediction": {}}, "prediction"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "field"), BAD_CHATS, ids=lambda v: str(v)[:60])
def test_bad_chats(fields, field):
    """Refused, naming the field."""
    with pytest.raises(InvalidArgumentError) as caught:
        checked(chat(**fields))
    assert caught.value.field == field


BAD_JSON = [
    b"", b"{", b"[]", b"null", b"5", b'"x"', b"{'a': 1}", b'{"a": NaN}', b'{"a": Infinity}', b'{"a": -Infinity}',
    b'{"a": 1} x', b"\xff\xfe", b'{"a": ' + b"1" * 5000 + b"}", b"[" * 100_000, b'{"a":' * 100_000, b"\x00",
]  # fmt: skip


@pytest.mark.parametrize("raw", BAD_JSON, ids=lambda r: repr(r[:20]))
def test_bad_json(raw):
    """Not a JSON object: refused, naming the body."""
    with pytest.raises(InvalidArgumentError) as caught:
        parse_json(raw)
    assert caught.value.field == "body"


def test_unknown_field_has_a_hint():
    """A misspelt field is told what was probably meant."""
    with pytest.raises(InvalidArgumentError, match="did you mean temperature"):
        completion(temperatur=1)


def test_good_json():
    """Unicode and nesting are fine."""
    document = {"a": [1, {"b": "é漢"}]}
    assert parse_json(json.dumps(document)) == document
