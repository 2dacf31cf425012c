"""Sampling parameters and prompts: every bound is refused just outside and taken just inside, by its field's name."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_api import limits
from argosy_api.convert import params_from_proto, params_to_proto
from argosy_api.errors import InvalidArgumentError
from argosy_api.params import SamplingParams, check_prompt
from argosy_api.v1 import worker_pb2 as pb

BAD = [
    ("max_tokens", 0), ("max_tokens", -1), ("max_tokens", limits.MAX_TOKENS + 1), ("max_tokens", 2**63), ("max_tokens", True),
    ("max_tokens", 1.5), ("max_tokens", "5"), ("max_tokens", None),
    ("min_tokens", -1), ("min_tokens", 17), ("min_tokens", 1.0),
    ("temperature", -0.1), ("temperature", math.nan), ("temperature", math.inf), ("temperature", -math.inf),
    ("temperature", limits.MAX_TEMPERATURE * 1.01), ("temperature", "1"), ("temperature", True), ("temperature", None),
    ("top_k", -1), ("top_k", limits.MAX_VOCAB + 1), ("top_k", 2.0),
    ("top_p", 0.0), ("top_p", -0.5), ("top_p", 1.0000001), ("top_p", math.nan), ("top_p", math.inf),
    ("seed", -1), ("seed", 2**63), ("seed", 1.0),
    ("logprobs", -1), ("logprobs", limits.MAX_LOGPROBS + 1), ("logprobs", True),
    ("prompt_logprobs", -1), ("prompt_logprobs", limits.MAX_LOGPROBS + 1),
    ("stop", ("",)), ("stop", ("x" * (limits.MAX_STOP_BYTES + 1),)), ("stop", ("é" * limits.MAX_STOP_BYTES,)),
    ("stop", ("x",) * (limits.MAX_STOP_STRINGS + 1)),
    ("temperature", 10**400), ("min_tokens", -(10**400)),
    ("min_p", -0.1), ("min_p", 1.01), ("min_p", math.nan), ("typical_p", 0.0), ("typical_p", 1.01), ("typical_p", math.nan),
    ("repetition_penalty", 0.0), ("repetition_penalty", -1.0), ("repetition_penalty", limits.MAX_REPETITION_PENALTY * 1.01),
    ("repetition_penalty", math.nan), ("presence_penalty", -2.01), ("presence_penalty", 2.01), ("presence_penalty", math.inf),
    ("frequency_penalty", -2.01), ("frequency_penalty", 2.01), ("frequency_penalty", math.nan), ("frequency_penalty", True),
    ("logit_bias", ((100, 1.0),)), ("logit_bias", ((-1, 1.0),)), ("logit_bias", ((1, 100.1),)), ("logit_bias", ((1, math.nan),)),
    ("logit_bias", ((1, 1.0),) * (limits.MAX_BIASES + 1)), ("allowed_token_ids", (100,)), ("allowed_token_ids", (-1,)),
    ("allowed_token_ids", (1,) * (limits.MAX_ALLOWED_IDS + 1)), ("bad_words_ids", ((),)), ("bad_words_ids", ((1, 100),)),
    ("bad_words_ids", ((1,) * (limits.MAX_BAD_WORD_IDS + 1),)), ("bad_words_ids", ((1,),) * (limits.MAX_BAD_WORDS + 1)),
    ("stop_token_ids", (-1,)), ("stop_token_ids", (100,)), ("stop_token_ids", (1,) * (limits.MAX_STOP_IDS + 1)),
]  # fmt: skip
GOOD = [
    ("max_tokens", 1), ("max_tokens", limits.MAX_TOKENS), ("min_tokens", 16), ("temperature", 0), ("temperature", 0.0),
    ("temperature", limits.MAX_TEMPERATURE), ("top_k", 0), ("top_k", limits.MAX_VOCAB), ("top_p", 1), ("top_p", 1e-9),
    ("seed", 0), ("seed", 2**63 - 1), ("seed", None), ("logprobs", 0), ("logprobs", limits.MAX_LOGPROBS),
    ("min_p", 0), ("min_p", 1.0), ("typical_p", 1e-9), ("typical_p", 1), ("repetition_penalty", limits.MIN_REPETITION_PENALTY),
    ("repetition_penalty", limits.MAX_REPETITION_PENALTY), ("presence_penalty", -2), ("frequency_penalty", 2.0),
    ("logit_bias", ((0, -100), (99, 100.0))), ("allowed_token_ids", (0, 99)), ("bad_words_ids", ((99,) * limits.MAX_BAD_WORD_IDS,)),
    ("stop", ("x" * limits.MAX_STOP_BYTES,)), ("stop", ("\x00",)), ("stop_token_ids", (0, 99)),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), BAD)
def test_out_of_bounds_is_refused_by_name(field, value):
    with pytest.raises(InvalidArgumentError) as refused:
        SamplingParams(**{field: value}).check(vocab_size=100)
    assert refused.value.field.partition("[")[0].partition(".")[0] == field
    assert len(refused.value.message) < 200


@pytest.mark.parametrize(("field", "value"), GOOD)
def test_the_bounds_themselves_are_taken(field, value):
    SamplingParams(**{field: value}).check(vocab_size=100)


@pytest.mark.parametrize(
    ("tokens", "says"),
    [([], "empty"), ([1] * 32, "32 tokens"), ([1, 100], "token id 100"), ([-1], "token id -1")],
)
def test_prompts_that_cannot_be_served_are_refused(tokens, says):
    with pytest.raises(InvalidArgumentError, match=says) as refused:
        check_prompt(tokens, vocab_size=100, max_model_len=32)
    assert refused.value.field.startswith("prompt")


def test_the_longest_prompt_leaves_one_token():
    check_prompt([1] * 31, vocab_size=100, max_model_len=32)


@given(
    st.builds(
        SamplingParams,
        max_tokens=st.integers(1, limits.MAX_TOKENS),
        temperature=st.floats(0, 100),
        top_k=st.integers(0, 1000),
        top_p=st.floats(0.01, 1),
        seed=st.none() | st.integers(0, 2**63 - 1),
        stop=st.lists(st.text(min_size=1, max_size=5).filter(lambda t: t.isascii()), max_size=3).map(tuple),
        stop_token_ids=st.lists(st.integers(0, 99), max_size=3).map(tuple),
        ignore_eos=st.booleans(),
        logprobs=st.none() | st.integers(0, 20),
        prompt_logprobs=st.none() | st.integers(0, 20),
        min_p=st.floats(0, 1),
        typical_p=st.floats(0.01, 1),
        repetition_penalty=st.floats(0.01, 100),
        presence_penalty=st.floats(-2, 2),
        frequency_penalty=st.floats(-2, 2),
        logit_bias=st.dictionaries(st.integers(0, 99), st.floats(-100, 100), max_size=3).map(
            lambda d: tuple(sorted(d.items()))
        ),
        allowed_token_ids=st.lists(st.integers(0, 99), max_size=3).map(tuple),
        bad_words_ids=st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=3).map(tuple), max_size=3).map(tuple),
    )
)
def test_the_wire_changes_nothing(params):
    assert params_from_proto(params_to_proto(params)) == params


def test_unset_fields_of_a_message_are_the_defaults():
    assert params_from_proto(pb.SamplingParams()) == SamplingParams()
    assert params_from_proto(pb.SamplingParams(temperature=0.0)).greedy
    assert params_from_proto(pb.SamplingParams(), default_max_tokens=99).max_tokens == 99


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"allowed_token_ids": (3, 4), "bad_words_ids": ((3,), (1, 4))}, "allowed_token_ids"),
        ({"allowed_token_ids": (0,), "min_tokens": 1}, "allowed_token_ids"),
        ({"allowed_token_ids": (5,), "min_tokens": 1, "stop_token_ids": (5,)}, "allowed_token_ids"),
        ({"stop_token_ids": tuple(range(1, 10)), "min_tokens": 1}, "min_tokens"),
        ({"bad_words_ids": tuple((i,) for i in range(10))}, "bad_words_ids"),
    ],
)
def test_parameters_that_leave_nothing_to_draw_are_refused(fields, field):
    with pytest.raises(InvalidArgumentError) as refused:
        SamplingParams(**fields).check_drawable(vocab_size=10, eos_token_ids=(0,))
    assert refused.value.field == field


@pytest.mark.parametrize(
    "fields",
    [
        {"allowed_token_ids": (0, 1), "min_tokens": 1},
        {"allowed_token_ids": (0,), "min_tokens": 1, "ignore_eos": True},
        {"allowed_token_ids": (0,)},
        {"bad_words_ids": ((0,), (1,))},
        {"stop_token_ids": tuple(range(1, 10))},
    ],
)
def test_parameters_that_leave_one_are_taken(fields):
    SamplingParams(**fields).check_drawable(vocab_size=10, eos_token_ids=(0,))
