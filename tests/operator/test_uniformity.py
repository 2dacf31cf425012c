"""Workers that differ are told, whatever they differ in, and in few words."""

import pytest

from argosy_api.worker_status import ServedModel
from argosy_operator.uniformity import judge, model_of

USUAL = ServedModel(
    compute="int8", fingerprint="aa", instruction_set="avx512_vnni", exactness="exact", max_model_len=2048
)


def other(**changes):
    return USUAL.model_copy(update=changes)


def test_nobody_has_said_anything():
    assert judge({})[:2] == ("Unknown", "NotObserved")
    assert model_of({}) is None


def test_all_alike():
    assert judge({"a": USUAL})[:2] == ("True", "Uniform")
    assert judge({"a": USUAL, "b": USUAL})[:2] == ("True", "Uniform")


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"compute": "fp32", "fingerprint": "bb"}, "DifferentArithmetic", "fp32 with avx512_vnni (b)"),
        ({"instruction_set": "avx2"}, "DifferentArithmetic", "int8 with avx2 (b)"),
        ({"max_model_len": 512}, "DifferentSize", "512 tokens (b)"),
        ({"exactness": "rows depend on their number with AMX"}, "NotExact", "at b: rows depend on their number"),
    ],
)
def test_what_differs_is_told(changes, reason, words):
    status, found, message = judge({"a": USUAL, "b": other(**changes), "c": USUAL})
    assert (status, found) == ("False", reason)
    assert words in message


def test_a_cache_of_another_size_changes_no_answer():
    assert judge({"a": USUAL, "b": other(kv_blocks_per_replica=7)})[0] == "True"


def test_the_status_tells_what_every_worker_can_do():
    assert model_of({"a": USUAL, "b": other(max_model_len=512)}).max_model_len == 512


def test_few_words_for_any_number_of_workers():
    every = {f"m-leader-{i:04}": other(instruction_set=f"{'x' * 4000}{i}", exactness="exact") for i in range(1000)}
    status, reason, message = judge(every)
    assert (status, reason) == ("False", "DifferentArithmetic")
    assert "1000 ways" in message
    assert len(message) < 1500
