"""Constrained answers: the state of a grammar beside its answer, and what a worker promises of it over gRPC."""

import json
import random

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from argosy_api.errors import InvalidArgumentError
from argosy_api.structured import compile as library
from argosy_api.structured.constraint import Kind, make
from argosy_api.v1 import worker_pb2 as pb
from argosy_worker import sim
from argosy_worker.grammar.answer import AnswerGrammar
from argosy_worker.grammar.matchers import COPIES, Habits, Matchers

FACTS = sim.SimModel(sim.SimSpec()).facts
VOCABULARY = library.vocabulary(FACTS.tokenizer_json, FACTS.vocab_size, FACTS.eos_token_ids)
END = sim.IM_END
INVALID = grpc.StatusCode.INVALID_ARGUMENT
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["a", "b", None, 1.5]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}


def compiled(kind, value):
    return library.matcher(VOCABULARY, make(kind, value, field="f"))


def answer(kind, value):
    kept = compiled(kind, value)
    return AnswerGrammar(kept, kept.deep_copy, FACTS.eos_token_ids)


def ids(bits):
    return np.flatnonzero(np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")).tolist()


def open_after(grammar, text, ahead=()):
    bits = grammar.allowed(list(text.encode()), 0, len(text.encode()), list(ahead))
    return None if bits is None else ids(bits)


def keeps(kind, value, text):
    """Whether an answer may be this text, token by token, and end there."""
    grammar, data = answer(kind, value), list(text.encode())
    for at, token in enumerate(data):
        if token not in ids(grammar.allowed(data[:at], 0, at, ())):
            return False
    return END in ids(grammar.allowed(data, 0, len(data), ()))


# --- the state


WALKS = {
    "object": (Kind.JSON_SCHEMA, PERSON),
    "number": (Kind.JSON_SCHEMA, {"type": "number"}),
    "pattern": (Kind.REGEX, "(ab|a)*c?[0-9]{2,}"),
    "choice": (Kind.CHOICE, ["one", "only", "other"]),
    "grammar": (Kind.GRAMMAR, 'root ::= "(" root ")" | [a-z]'),
}


@pytest.mark.parametrize("walk", WALKS)
@given(seed=st.integers(0, 10**9))
@settings(max_examples=30, deadline=None)
def test_from_any_place_to_any_other_the_mask_is_that_of_a_fresh_start(walk, seed):
    """Guesses right and wrong, ends among them, steps back and computed twice: as if nothing had been before."""
    rng, kind_value = random.Random(seed), WALKS[walk]
    kept, habits = compiled(*kind_value), Habits()
    used = AnswerGrammar(kept, kept.deep_copy, FACTS.eos_token_ids, habits)
    known = []  # only ever grows, as a request's tokens do; looked at are the first so many of it
    for _ in range(30):
        text = list(known)
        here = ids(AnswerGrammar(kept, kept.deep_copy, FACTS.eos_token_ids).allowed(text, 0, len(text), ()))
        going = [token for token in here if token not in FACTS.eos_token_ids]
        if rng.random() < 0.7 and going:
            known.append(rng.choice(going))
            text = list(known)
        else:
            del text[rng.randrange(len(text) + 1) :]
        ahead = []
        for _ in range(rng.randrange(4)):
            fresh = AnswerGrammar(kept, kept.deep_copy, FACTS.eos_token_ids)
            mask = fresh.allowed([*text, *ahead], 0, len(text) + len(ahead), ())
            ahead.append(rng.choice(ids(mask)) if rng.random() < 0.7 else rng.randrange(FACTS.vocab_size))
            found = used.allowed(known, 0, len(text), ahead)
            if found is None:
                assert ahead[-1] in FACTS.eos_token_ids or ahead[-1] not in ids(mask)
                break
            again = AnswerGrammar(kept, kept.deep_copy, FACTS.eos_token_ids, habits)
            assert found == again.allowed([*text, *ahead], 0, len(text) + len(ahead), ())


class Counted:
    """A matcher, and how many copies there are of it."""

    def __init__(self, inner, copies):
        self.inner, self.copies = inner, copies
        copies.append(self)

    def deep_copy(self):
        return Counted(self.inner.deep_copy(), self.copies)

    def __getattr__(self, name):
        return getattr(self.inner, name)


@pytest.mark.parametrize("walk", WALKS)
@given(seed=st.integers(0, 10**9))
@settings(max_examples=30, deadline=None)
def test_whichever_copy_is_asked_the_mask_is_that_of_one_that_was_always_asked(walk, seed):
    """Habits are guesses. Here they say now this and now that, and never mind what came."""
    rng, kept, copies = random.Random(seed), compiled(*WALKS[walk]), []

    class Moods(Habits):
        def after(self, mask, token):
            return rng.choice([None, mask, 1, *others._latest])

    others, alone, text = Matchers(Counted(kept.deep_copy(), copies), Moods()), kept.deep_copy(), []
    for _ in range(40):
        mask = others.mask()
        assert mask == alone.compute_bitmask()
        going = [token for token in ids(mask) if token not in FACTS.eos_token_ids]
        if text and (rng.random() < 0.2 or not going):
            count = rng.randrange(len(text))
            assert others.back(count)
            assert alone.rollback(len(text) - count)
            del text[count:]
        elif going:
            text.append(rng.choice(going))
            assert others.step(text[-1])
            assert alone.consume_token(text[-1])
        assert others.taken == text
        assert len(copies) <= COPIES
    assert others.error == ""


def test_an_answer_that_goes_back_and_forth_asks_each_time_who_was_there_last():
    """In a word, between two, in a word: the library has both masks ready, and nobody is asked for another one."""
    asked, copies, habits = [], [], Habits()

    class Asked(Counted):
        def deep_copy(self):
            return Asked(self.inner.deep_copy(), self.copies)

        def compute_bitmask(self):
            bits = self.inner.compute_bitmask()
            asked.append((self.copies.index(self), bits))
            return bits

    kept = compiled(Kind.REGEX, "([a-z]+ )+")
    for _ in range(2):  # the first answer learns what the second one knows
        del asked[:], copies[:]
        answer = Matchers(Asked(kept.deep_copy(), copies), habits)
        for token in b"ab cd ef gh ij ":
            answer.mask()
            assert answer.step(token)
    latest, again = {}, 0
    for copy, bits in asked:
        again += latest.get(copy) == bits
        latest[copy] = bits
    assert again == len(asked) - 3  # at the start, in a word and between two: once each


@pytest.mark.parametrize(("kind", "value", "text"), [(Kind.JSON_SCHEMA, PERSON, '{"name":"x","age":1,"kind":null}'),
                                                     (Kind.JSON_SCHEMA, {"type": "number"}, "12")])  # fmt: skip
def test_an_end_that_was_only_guessed_takes_nothing_back(kind, value, text):
    """The library counts an end among its steps at some places and not at others; it is never told of one."""
    grammar = answer(kind, value)
    before = open_after(grammar, text)
    assert END in before
    assert open_after(grammar, text, [END]) is None
    assert open_after(grammar, text) == before
    assert open_after(grammar, text[:-1]) == open_after(answer(kind, value), text[:-1])


def test_an_answer_that_has_left_the_grammar_is_an_error_and_no_end():
    """In its error state the library would allow nothing but an end."""
    grammar = answer(Kind.JSON_SCHEMA, {"type": "integer"})
    assert grammar.allowed(list(b"1x"), 0, 2, ()) == b""
    assert "do not keep to" in grammar.problem
    assert open_after(grammar, "1") == open_after(answer(Kind.JSON_SCHEMA, {"type": "integer"}), "1")


def test_what_becomes_too_complex_is_an_error_and_no_end():
    grammar = answer(Kind.REGEX, "(.*a.{20}b.{20}){3}|(.*b.{21}a.{19}){3}")
    text, problem = [], ""
    for step in range(3000):
        bits = grammar.allowed(text, 0, len(text), ())
        if not bits:
            problem = grammar.problem
            break
        text.append(b"ab"[step % 7 % 2])
    assert not problem or "too complex" in problem


def test_only_the_end_is_left_where_the_grammar_ends_and_no_special_token_anywhere():
    grammar = answer(Kind.JSON_SCHEMA, {"type": "object", "properties": {"s": {"type": "string"}}, "required": ["s"]})
    assert open_after(grammar, '{"s":"x"}') == sorted(FACTS.eos_token_ids)
    inside = open_after(grammar, '{"s":"x')
    assert max(inside) < 256
    assert not {sim.IM_START, END} & set(inside)


# --- what the grammars of constraints are


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "integer"}, ["0", "-7", "12"], ["01", "1.0", "1e3", "+1"]),
        ({"type": "number", "minimum": 0, "maximum": 1}, ["0", "1", "0.25"], ["1.1", "-0.5"]),
        ({"type": "integer", "multipleOf": 7}, ["0", "14", "700"], ["15"]),
        ({"type": "number", "multipleOf": 0.25}, ["0.75", "3"], ["0.7"]),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ['"ab"', '"é\\n"', '"日本語"'], ['"a"', '"abcd"']),
        ({"type": "string", "pattern": "^a+b"}, ['"aab"', '"abx"'], ['"b"']),
        ({"type": "string", "pattern": "b"}, ['"abc"'], ['"ac"']),
        ({"type": "string", "format": "date"}, ['"2024-02-09"'], ['"2024-13-01"', '"x"']),
        ({"type": "string", "format": "password"}, ['"anything"'], ["1"]),
        ({"enum": [1, "a", None, {"k": [1]}]}, ["1", '"a"', "null", '{"k":[1]}'], ["2", '"b"']),
        ({"const": "x"}, ['"x"'], ['"y"']),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2}, ["[true]", "[true, false]"],
         ["[]", "[1]", "[true,true,true]"]),
        ({"prefixItems": [{"type": "integer"}], "items": False, "type": "array"}, ["[1]"], ['["x"]', "[1,2]"]),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, ["1", "null"], ["true"]),
        ({"allOf": [{"type": "integer"}, {"minimum": 3}]}, ["3"], ["2"]),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}}, ["[[],[[]]]"],
         ["[1]"]),
        ({"type": "object", "required": ["z"]}, ['{"z":1}'], ["{}"]),
        ({"type": "object", "patternProperties": {"^x_": {"type": "integer"}}, "additionalProperties": False},
         ['{"x_a":1}'], ['{"y":1}']),
        ({"uniqueItems": False, "nullable": False, "type": "null"}, ["null"], ["1"]),
    ],
)  # fmt: skip
def test_a_schema_lets_through_what_validates_and_nothing_else(schema, good, bad):
    judge = Draft202012Validator(schema)
    for text in good:
        assert keeps(Kind.JSON_SCHEMA, schema, text), text
        assert judge.is_valid(json.loads(text))
    for text in bad:
        assert not keeps(Kind.JSON_SCHEMA, schema, text), text


def test_a_declared_key_has_one_spelling():
    """An escaped one would be another key to the grammar, and the same one to whoever reads the answer."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert keeps(Kind.JSON_SCHEMA, schema, '{"a":1,"b":"x"}')
    assert not keeps(Kind.JSON_SCHEMA, schema, '{"a":1,"\\u0061":"x"}')


def test_blanks_have_an_end():
    assert keeps(Kind.JSON_SCHEMA, {"type": "array"}, "[\n    1,\n    2\n]")
    assert not keeps(Kind.JSON_SCHEMA, {"type": "array"}, "[\n\n\n1]")
    assert not keeps(Kind.JSON_SCHEMA, {"type": "array"}, "[   1]")


@pytest.mark.parametrize("count", [10, 400])
def test_many_properties_are_still_there_after_the_first_key(count):
    """A library that takes a schema and fails at its first key would end answers in their midst."""
    schema = {"type": "object", "properties": {f"k{i}": {"type": "integer"} for i in range(count)},
              "additionalProperties": False}  # fmt: skip
    assert keeps(Kind.JSON_SCHEMA, schema, '{"k0":1,"k3":2,"k9":3}')


@pytest.mark.parametrize(
    ("kind", "value", "good", "bad"),
    [
        (Kind.REGEX, "a/b\\d+\n?", ["a/b12", "a/b1\n"], ["a/b", "xa/b1"]),
        (Kind.REGEX, "yes|no", ["yes", "no"], ["yesno", "maybe"]),
        (Kind.CHOICE, ['say "hi"', "x/y", "é\n"], ['say "hi"', "x/y", "é\n"], ["x"]),
        (Kind.GRAMMAR, 'start: "a" start? "b"', ["ab", "aabb"], ["aab", ""]),
        (Kind.GRAMMAR, 'root ::= "a" [0-9]+ end\nend ::= "z"', ["a1z"], ["az"]),
    ],
)
def test_patterns_choices_and_grammars(kind, value, good, bad):
    assert [keeps(kind, value, text) for text in good] == [True] * len(good)
    assert [keeps(kind, value, text) for text in bad] == [False] * len(bad)


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"properties": {"x": {"not": {"type": "string"}}}}, "f.properties.x.not"),
        ({"items": {"uniqueItems": True}}, "f.items.uniqueItems"),
        ({"anyOf": [{"if": {}}]}, r"f.anyOf\[0\].if"),
        ({"contains": {}}, "f.contains"),
        ({"dependentRequired": {"a": ["b"]}}, "f.dependentRequired"),
        ({"propertyNames": {}}, "f.propertyNames"),
        ({"unevaluatedProperties": False}, "f.unevaluatedProperties"),
        ({"$defs": {"a": {"divisibleBy": 2}}}, "f.\\$defs.a.divisibleBy"),
        ({"type": "string", "nullable": True}, "f.nullable"),
        ({"multipleOf": 10_007}, "f.multipleOf"),
        ({"allOf": [{"multipleOf": 101}, {"multipleOf": 103}]}, "multiple of 10000"),
        ({"multipleOf": 0}, "f.multipleOf"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf"),
        ({"$ref": "https://example.com/a.json"}, "example.com"),
        ({"$ref": "#/nowhere"}, "nowhere"),
        ({"enum": []}, "Unsatisfiable"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        (3, "must be a JSON schema"),
        ({"properties": {f"p{i}": {} for i in range(501)}}, "at most 500"),
    ],
)
def test_what_cannot_be_kept_to_is_refused_by_name(schema, named):
    with pytest.raises(InvalidArgumentError, match=named):
        compiled(Kind.JSON_SCHEMA, schema)


# --- over gRPC


def request(name="r", *, constraint, **more) -> pb.GenerateRequest:
    more.setdefault("temperature", 0.9)
    more.setdefault("max_tokens", 300)
    return pb.GenerateRequest(
        request_id=name,
        attempt=1,
        prompt_tokens=list(b"a prompt of more than sixteen bytes"),
        sampling=pb.SamplingParams(**more),
        constraint=constraint,
    )


async def texts_of(rig, asked):
    chunks = [chunk async for chunk in rig.stub.Generate(asked)]
    return "".join(c.text for c in chunks), [t for c in chunks for t in c.token_ids], chunks[-1]


CONSTRAINT = json.dumps({"json_schema": PERSON})


async def test_answers_keep_to_their_constraint_and_end_where_it_does(rig):
    for seed in range(8):
        text, _, last = await texts_of(rig, request(f"r{seed}", constraint=CONSTRAINT, seed=seed))
        Draft202012Validator(PERSON).validate(json.loads(text))
        assert (last.finish_reason, last.stop_reason) == (pb.FINISH_REASON_STOP, "")


async def test_a_resumed_answer_goes_on_in_the_midst_of_its_grammar(rig):
    text, tokens, _ = await texts_of(rig, request("whole", constraint=CONSTRAINT, seed=5))
    for count in range(1, len(tokens)):
        again = request(f"cut{count}", constraint=CONSTRAINT, seed=5)
        again.resumed_tokens.extend(tokens[:count])
        rest, more, _ = await texts_of(rig, again)
        assert (more, rest) == (tokens[count:], text)


async def test_resumed_tokens_of_another_answer_are_refused(rig):
    wrong = request("wrong", constraint=CONSTRAINT, seed=5)
    wrong.resumed_tokens.extend(b"[1")
    code, details = await rig.status_of(wrong)
    assert (code, details.split(":")[0]) == (INVALID, "constraint")


async def test_a_constraint_widens_neither_stop_strings_nor_min_tokens(rig):
    digits = json.dumps({"regex": "[0-9]{30}"})
    text, _, last = await texts_of(rig, request("s", constraint=digits, stop=["7"], seed=1))
    assert "7" not in text
    assert last.stop_reason == "7"
    some = json.dumps({"regex": "[0-9]{1,40}"})
    for seed in range(5):
        _, tokens, _ = await texts_of(rig, request(f"m{seed}", constraint=some, min_tokens=12, seed=seed))
        assert len(tokens) >= 12
    code, details = await rig.status_of(request("e", constraint=json.dumps({"choice": ["abc"]}), min_tokens=12))
    assert code == INVALID
    assert "no token is left" in details


async def test_other_parameters_that_rule_out_tokens_count_too(rig):
    words = json.dumps({"regex": "[a-f]{20}"})
    text, _, _ = await texts_of(rig, request(constraint=words, allowed_token_ids=[*b"abxyz", END], bad_words_ids=[
        pb.TokenIds(ids=[97, 97])], seed=3))  # fmt: skip
    assert set(text) == {"a", "b"}
    assert "aa" not in text


@pytest.mark.parametrize(
    ("constraint", "field"),
    [
        ("{", "constraint"),
        ('{"what": 1}', "constraint"),
        ('{"regex": "("}', "constraint"),
        ('{"json_schema": {"not": {}}}', "constraint.json_schema.not"),
        ('{"choice": []}', "constraint.choice"),
        ('{"grammar": "start: nowhere"}', "constraint"),
        (json.dumps({"regex": "a" * 70_000}), "constraint.regex"),
    ],
)
async def test_a_constraint_that_is_none_is_refused_and_the_worker_lives_on(rig, constraint, field):
    code, details = await rig.status_of(request(constraint=constraint))
    assert (code, details.split(": ")[0]) == (INVALID, field)
    text, _, _ = await texts_of(rig, request("after", constraint='{"choice": ["fine"]}'))
    assert text == "fine"


async def test_an_answer_that_never_ends_is_none(rig):
    code, details = await rig.status_of(request(constraint=CONSTRAINT, ignore_eos=True))
    assert (code, details.split(":")[0]) == (INVALID, "ignore_eos")
