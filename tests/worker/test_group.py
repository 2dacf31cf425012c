"""A model that two processes share: the tokens of one process, and an end for all when one of them ends or hangs.

Slow, for each test starts two to four processes that load torch and the model: nothing less shows what they do.
"""

import asyncio
import signal

import grpc
import pytest
from group_kit import FP32, Process, answers, endless, ready


@pytest.fixture
def start(tmp_path, free_port):
    made = []

    def make(ranks, **more):
        leader = f"127.0.0.1:{free_port()}"
        group = [Process(tmp_path, free_port, rank=r, ranks=ranks, leader=leader, **more) for r in range(ranks)]
        made.extend(group)
        return group

    yield make
    for process in made:
        process.process.kill()
        process.process.wait()


async def test_a_group_gives_the_tokens_of_one_process_until_one_of_it_hangs(start):
    (one,) = ready(start(1))
    alone, told = await answers(one)
    one.process.kill()
    group = ready(start(3))
    shared, of_group = await answers(group[0])
    assert shared == alone
    assert all(len(tokens) == 24 for tokens in alone)
    assert of_group.kernels == told.kernels
    assert (of_group.exactness, of_group.fingerprint != told.fingerprint) == ("exact", True)
    assert (of_group.kv_layout, of_group.total_blocks > 2 * told.total_blocks) == ("", True)
    assert (await answers(group[0]))[0] == shared  # now from the prefix cache
    call = await endless(group[0])
    group[2].process.send_signal(signal.SIGSTOP)
    async with asyncio.timeout(60):
        assert await call.code() == grpc.StatusCode.UNAVAILABLE
    for process in group[:2]:
        code, log = process.end()
        assert (code, "the whole group begins anew" in log) == (1, True), log


@pytest.mark.parametrize(("how", "rank"), [(signal.SIGKILL, 1), (signal.SIGSTOP, 0)])
async def test_when_one_ends_or_hangs_all_end(start, how, rank):
    group = ready(start(2))
    call = await endless(group[0])
    group[rank].process.send_signal(how)
    if rank:
        async with asyncio.timeout(60):
            assert await call.code() == grpc.StatusCode.UNAVAILABLE
    code, log = group[1 - rank].end()
    assert code == 1
    assert "GroupLost" in log or "EngineFailed: the engine has died (RunnerBrokenError)" in log


async def test_all_end_in_order_when_one_is_told_to(start):
    group = ready(start(2))
    call = await endless(group[0], max_tokens=100)
    group[1].process.terminate()
    tokens = []
    while (chunk := await call.read()) is not grpc.aio.EOF:
        tokens += chunk.token_ids
    assert len(tokens) > 90  # all but what `endless` has read
    assert [p.end()[0] for p in group] == [0, 0]


@pytest.mark.parametrize(("tensor", "ranks", "spec"), [(2, 2, FP32), (3, 3, {}), (2, 4, {})])
async def test_ranks_that_share_layers_give_the_tokens_of_one_process(start, tensor, ranks, spec):
    """Every number is the same, of weights as they are stored, too; the repetitive prompt has tokens guessed, and the second round its prefix cached."""
    (one,) = ready(start(1, spec=spec))
    alone, _ = await answers(one)
    one.process.kill()
    group = ready(start(ranks, tensor=tensor, spec=spec))
    shared, told = await answers(group[0])
    assert shared == alone
    assert (told.exactness, told.kv_layout) == ("exact", "")
    assert (await answers(group[0]))[0] == alone
    call = await endless(group[0])
    group[-1].process.kill()
    async with asyncio.timeout(60):
        assert await call.code() == grpc.StatusCode.UNAVAILABLE
    for process in group[:-1]:
        code, log = process.end()
        assert (code, "GroupLost" in log or "RunnerBrokenError" in log) == (1, True), log
