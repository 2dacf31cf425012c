"""Workers and routers are killed, stopped and drained under load, in small; and the checker notices what would be wrong."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import chaos

from argosy_api.params import SamplingParams
from argosy_worker import sim


async def test_no_token_is_lost_doubled_or_wrong_whatever_happens_to_workers():
    outcome = await chaos.run(
        requests=100, rate=10, every=2, kinds=["kill", "stop", "drain"], workers=3, least_faults=3
    )
    assert outcome.failures == []
    assert {"kill", "stop", "drain"} <= set(outcome.faults)
    assert outcome.gaps != []


async def test_nor_whatever_happens_to_routers():
    outcome = await chaos.run(requests=60, rate=10, every=1.5, kinds=["router", "roll"], workers=2, least_faults=4)
    assert outcome.failures == []
    assert {"router", "roll"} <= set(outcome.faults)
    assert outcome.gaps != []


def history(chunks, **changes):
    prompt, params = list(b"hello"), SamplingParams(max_tokens=8, temperature=0)
    tokens = sim.oracle(prompt, 8, params)
    made = [(float(i), attempt, index, tokens[begin:end]) for i, (attempt, index, begin, end) in enumerate(chunks)]
    whole = chaos.History(prompt, params, made, text=bytes(tokens).decode(), finished=True, completion_tokens=8)
    return replace(whole, **changes)


GOOD = [(1, 0, 0, 3), (2, 3, 3, 8)]


def test_the_checker_is_content_with_the_oracles_answer():
    good = history(GOOD)
    assert (chaos.wrongs(good), good.resumed) == ([], [1.0])


@pytest.mark.parametrize(
    ("chunks", "changes", "problem"),
    [
        ([(1, 0, 0, 3), (2, 4, 4, 8)], {}, "token 4 came when 3 was due"),
        ([(1, 0, 0, 3), (2, 2, 2, 8)], {}, "token 2 came when 3 was due"),
        ([(1, 0, 0, 3), (2, 3, 4, 8)], {}, "other tokens"),
        ([(2, 0, 0, 3), (1, 3, 3, 8)], {}, "attempt 1 spoke after attempt 2"),
        (GOOD, {"finished": False}, "without a finish reason"),
        (GOOD, {"completion_tokens": 5}, "usage says 5"),
        (GOOD, {"text": "x"}, "text"),
        (GOOD, {"error": "UNAVAILABLE: gone"}, "failed"),
    ],
)
def test_the_checker_notices(chunks, changes, problem):
    assert any(problem in wrong for wrong in chaos.wrongs(history(chunks, **changes)))
