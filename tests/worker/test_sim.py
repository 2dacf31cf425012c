"""The simulated model: its address, its tokenizer, and that it notices what it is there to notice."""

import time

import pytest
from tokenizers import Tokenizer

from argosy_api.errors import ModelInvalidError
from argosy_api.model_uri import ModelUri
from argosy_api.params import SamplingParams
from argosy_worker import sim
from argosy_worker.core.batch import SequenceSlice, StepBatch

GREEDY = SamplingParams(temperature=0, max_tokens=8)


def parse(uri):
    return sim.SimSpec.parse(ModelUri.parse(uri))


def piece(tokens, start, table, *, sample=True, params=GREEDY, targets=()):
    return SequenceSlice(
        request_id="a",
        tokens=tokens,
        start=start,
        table=table,
        sample_rows=range(len(tokens) - 1, len(tokens)) if sample else range(0),
        params=params,
        prompt_targets=targets,
    )


@pytest.fixture
def runner():
    return sim.SimRunner(sim.SimSpec(decode_ms=0, prefill_tps=0, check=1), 8, 4)


def run(runner, *pieces):
    return runner.launch(StepBatch(pieces)).result()


def test_address_with_everything():
    spec = parse(
        "sim://m?prefill_tps=1.5&decode_ms=2&step_ms=3&load_s=4&kv_blocks=5&max_model_len=6&vocab=700&eos_every=8"
        "&window=9&check=1&accept=0.5"
    )
    assert spec == sim.SimSpec(
        name="m",
        prefill_tps=1.5,
        decode_ms=2,
        step_ms=3,
        load_s=4,
        kv_blocks=5,
        max_model_len=6,
        vocab=700,
        eos_every=8,
        window=9,
        check=1,
        accept=0.5,
    )
    assert parse("sim://m") == sim.SimSpec(name="m")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("sim://m?speed=1", "unknown option 'speed'"),
        ("sim://m?decode_ms=fast", "decode_ms must be a number"),
        ("sim://m?decode_ms=nan", "decode_ms"),
        ("sim://m?decode_ms=inf", "decode_ms"),
        ("sim://m?decode_ms=-1", "decode_ms"),
        ("sim://m?decode_ms=", "decode_ms"),
        ("sim://m?kv_blocks=1.5", "kv_blocks must be an integer"),
        ("sim://m?kv_blocks=0", "kv_blocks is 0; must be at least 1"),
        ("sim://m?accept=1.5", "accept is 1.5; must be at most 1"),
        ("sim://m?vocab=258", "vocab is 258; must be at least 259"),
        ("sim://m?max_model_len=1", "max_model_len"),
        ("sim://m?window=1", "window is 1; must be 0, for all, or at least 2"),
    ],
)
def test_wrong_address_is_refused_with_the_reason(uri, words):
    with pytest.raises(ModelInvalidError, match=words.replace("?", r"\?")):
        parse(uri)


def test_tokenizer_turns_any_text_into_its_bytes_and_back():
    tokenizer = Tokenizer.from_buffer(sim.tokenizer_json())
    text = "plain é 中 😀 \t\r\n  spaces"
    assert tokenizer.encode(text).ids == list(text.encode())
    assert tokenizer.decode(list(text.encode())) == text
    assert tokenizer.encode("<|im_start|>user\nhi<|im_end|>").ids == [sim.IM_START, *b"user\nhi", sim.IM_END]
    assert tokenizer.get_vocab_size() == 259


def test_chunks_and_tables_do_not_change_the_token(runner, oracle):
    prompt = list(b"0123456789")
    expected = oracle(prompt, 3)
    assert run(runner, piece(prompt, 0, [1, 2, 3]))[0].tokens == [expected[0]]
    assert run(runner, piece(prompt[:3], 0, [8, 5, 4], sample=False))[0].tokens == []
    assert run(runner, piece(prompt[3:], 3, [8, 5, 4]))[0].tokens == [expected[0]]
    assert run(runner, piece([expected[0]], 10, [8, 5, 4]))[0].tokens == [expected[1]]
    assert run(runner, piece([expected[1]], 11, [8, 5, 4]))[0].tokens == [expected[2]]


@pytest.mark.parametrize("table", [[1, 2, 2], [1, 2, 0], [1, 2], [2, 1, 3], [1, 7, 3]])
def test_a_broken_block_table_is_noticed(runner, table):
    prompt = list(range(9))
    run(runner, piece(prompt, 0, [1, 2, 3]))
    run(runner, piece(list(range(50, 59)), 0, [6, 7, 8]))
    assert run(runner, piece([42], 9, table))[0].error is not None


@pytest.mark.parametrize(
    ("table", "fine"),
    [([0, 2, 3], True), ([1, 2, 3], True), ([7, 2, 3], True), ([0, 0, 3], False), ([0, 1, 3], False), ([0], False)],
)
def test_with_a_window_the_blocks_in_it_count(table, fine):
    """A row at position 9 that sees 5 positions begins in the second block."""
    runner = sim.SimRunner(sim.SimSpec(decode_ms=0, prefill_tps=0, check=1, window=5), 8, 4)
    run(runner, piece(list(range(9)), 0, [1, 2, 3]))
    output = run(runner, piece([42], 9, table))[0]
    assert (output.error is None) == fine


def test_the_seed_counts_only_when_sampling(oracle):
    prompt = list(b"abc")
    assert oracle(prompt, 8, seed=1) == oracle(prompt, 8, seed=2)
    assert oracle(prompt, 8, temperature=1, seed=1) != oracle(prompt, 8, temperature=1, seed=2)
    assert oracle(prompt, 8, temperature=1, seed=1) == oracle(prompt, 8, temperature=0.5, seed=1)


def test_end_of_sequence_comes_as_often_as_asked(oracle):
    tokens = oracle([1], 2000, eos_every=10)
    assert 120 < tokens.count(sim.IM_END) < 290
    assert sim.IM_END not in oracle([1], 2000)


def test_prompt_logprobs_have_one_row_for_each_target(runner):
    params = SamplingParams(temperature=0, prompt_logprobs=2, logprobs=3)
    prompt = list(range(100, 106))
    first = run(runner, piece(prompt[:4], 0, [1, 2], sample=False, params=params, targets=prompt[1:5]))[0]
    second = run(runner, piece(prompt[4:], 4, [1, 2], params=params, targets=prompt[5:6]))[0]
    assert [row.token for row in (*first.prompt_logprobs, *second.prompt_logprobs)] == prompt[1:]
    assert [len(row.top) for row in first.prompt_logprobs] == [2] * 4
    assert [row.token for row in second.logprobs] == list(second.tokens)
    assert len({token for token, _ in second.logprobs[0].top}) == 3


def test_it_takes_the_time_it_was_told_to():
    runner = sim.SimRunner(sim.SimSpec(prefill_tps=1000, decode_ms=10, step_ms=5), 8, 16)
    began = time.monotonic()
    run(runner, piece(list(range(50)), 0, [1, 2, 3, 4]))
    run(runner, piece([1], 50, [1, 2, 3, 4]))
    assert time.monotonic() - began >= 0.055 + 0.015


def test_equal_addresses_are_exchangeable_and_others_are_not():
    def fingerprint(uri):
        return sim.SimModel(parse(uri)).facts.fingerprint

    assert fingerprint("sim://a") == fingerprint("sim://a?decode_ms=3&kv_blocks=9")
    assert len({fingerprint(u) for u in ("sim://a", "sim://b", "sim://a?eos_every=5", "sim://a?vocab=300")}) == 4
