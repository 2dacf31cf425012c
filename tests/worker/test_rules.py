"""What a sampler is told of single tokens: counts that grow with the text are those of a count from its beginning."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from argosy_api.params import SamplingParams
from argosy_worker.core.batch import SequenceSlice
from argosy_worker.core.rules import TokenRules

TOKENS = st.integers(0, 4)


def piece(start, tokens, draft, rules, params):
    return SequenceSlice(
        request_id="r",
        tokens=tokens,
        start=start,
        table=(),
        sample_rows=range(len(tokens) - draft - 1, len(tokens)),
        params=params,
        draft=draft,
        rules=rules,
    )


def banned(params, answer):
    return {
        w[-1]
        for w in params.bad_words_ids
        if tuple(answer[len(answer) - len(w) + 1 :]) == w[:-1] and len(answer) >= len(w) - 1
    }


STEPS = st.lists(
    st.tuples(
        st.lists(TOKENS, min_size=1, max_size=3),  # what is generated
        st.lists(TOKENS, max_size=4),  # what is tried behind it first
        st.integers(0, 6),  # computed again, after a preemption
        st.booleans(),  # the runner computes late: more is known by then
    ),
    max_size=8,
)


@settings(max_examples=500, deadline=None)
@given(
    st.lists(TOKENS, min_size=1, max_size=12),
    STEPS,
    st.sampled_from([1.0, 1.3]),
    st.lists(st.lists(TOKENS, min_size=1, max_size=3), max_size=3),
)
def test_each_row_has_the_history_before_it(prompt, steps, repetition, words):
    """Of known tokens and of the draft so far: with drafts right or wrong, late runners, and rows computed anew."""
    params = SamplingParams(
        repetition_penalty=repetition, frequency_penalty=0.5, bad_words_ids=tuple(map(tuple, words))
    )
    text = list(prompt)
    rules = TokenRules.of(params, text, len(prompt))
    for generated, draft, again, late in steps:
        start = max(0, len(text) - 1 - again)
        made = piece(start, (*text[start:], *draft), len(draft), rules, params)
        known = list(text)
        if late:
            text += generated
        for row in made.sample_rows:
            history = [*known, *draft][: made.start + row + 1]
            answer = history[len(prompt) :]
            found = made.counts_at(row)
            counted = {t: n for t, n in zip(found.ids, found.times, strict=True) if n}
            assert counted == Counter(answer)
            assert len(found.ids) == len(set(found.ids))
            if repetition != 1:
                assert set(found.ids) == set(history)
            assert set(made.banned_at(row)) == banned(params, answer)
        if not late:
            text += generated


def test_only_what_asks_has_rules():
    assert TokenRules.of(SamplingParams(temperature=0.5, top_k=3, min_p=0.1), [1], 1) is None
    for fields in (
        {"presence_penalty": 1.0},
        {"logit_bias": ((1, 1.0),)},
        {"allowed_token_ids": (1,)},
        {"bad_words_ids": ((1,),)},
    ):
        assert TokenRules.of(SamplingParams(**fields), [1], 1) is not None


def test_a_step_counts_only_what_is_new():
    """The work of a row does not grow with the length of the text: each known token is read once."""

    class Text(list):
        read = 0

        def __getitem__(self, place):
            Text.read += 1
            return super().__getitem__(place)

    text = Text(i % 50 for i in range(32_000))
    params = SamplingParams(repetition_penalty=1.1)
    rules = TokenRules.of(params, text, len(text))
    for _ in range(100):
        rules.counts_after(len(text) - 1, text[-1:])
        text.append(7)
    assert Text.read <= 32_000 + 100 + 100
