"""How many messages a stream is worth: the rule, and that requests carry what it says to their workers."""

import pytest

from argosy_router.joining import MOST_MS, UNREAD_MS, interval_ms


@pytest.mark.parametrize(
    ("streams", "expected"), [(0, 0), (2, 0), (50, 20), (100, 40), (250, MOST_MS), (10_000, MOST_MS)]
)
def test_streams_share_a_number_of_messages_a_second(streams, expected):
    assert interval_ms(streams, read_as_it_comes=True, by_token=False) == expected


def test_who_is_told_of_each_token_gets_each_alone_and_who_waits_for_the_whole_gets_few():
    assert interval_ms(10_000, read_as_it_comes=True, by_token=True) == 0
    assert interval_ms(1, read_as_it_comes=False, by_token=True) == 0
    assert interval_ms(1, read_as_it_comes=False, by_token=False) == UNREAD_MS


@pytest.mark.parametrize(("extra", "expected"), [({}, UNREAD_MS), ({"logprobs": 1}, 0), ({"stream": True}, 0)])
async def test_workers_are_told(rig, extra, expected):
    response, _ = await rig.post("/v1/completions", {"model": "m", "prompt": "hello", "max_tokens": 3, **extra})
    assert response.status == 200
    told = [request.message_interval_ms for worker in rig.workers for request in worker.requests]
    assert told == [expected]


async def test_answers_that_nobody_reads_do_not_count(rig, monkeypatch):
    monkeypatch.setattr(rig.router.service.admission, "running", 100)
    for peer in rig.state.workers.values():
        monkeypatch.setattr(peer.session, "paused", 25)
    await rig.post("/v1/completions", {"model": "m", "prompt": "hello", "max_tokens": 3, "stream": True})
    told = [request.message_interval_ms for worker in rig.workers for request in worker.requests]
    assert told == [interval_ms(51, read_as_it_comes=True, by_token=False)]
