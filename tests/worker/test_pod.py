"""Ranks of one pod, which its worker's process starts: the tokens of one process, and an end for all together."""

import json
import os
import signal

import grpc
import pytest
import waiting
from group_kit import FP32, Process, answers, endless, ready

from argosy_api.errors import InvalidArgumentError
from argosy_api.process import EXIT_CONFIG, EXIT_FAULT, Termination
from argosy_worker.serve.hosting import Loss
from argosy_worker.serve.pod import reason
from argosy_worker.serve.settings import parse


@pytest.fixture
def start(tmp_path, free_port):
    made = []

    def make(ranks, *, local, **more):
        leader = f"127.0.0.1:{free_port()}" if ranks > local else ""
        pods = [
            Process(tmp_path, free_port, rank=pod, ranks=ranks, local=local, leader=leader, **more)
            for pod in range(ranks // local)
        ]
        made.extend(pods)
        return pods

    yield make
    for process in made:
        process.process.kill()
        process.process.wait()


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("spec", [FP32, {}], ids=["fp32", "as-stored"])
async def test_ranks_of_a_pod_give_the_tokens_of_one_process_until_one_is_killed(start, spec):
    """Greedy, sampled with a seed, with tokens guessed, and at last from the prefix cache."""
    (one,) = ready(start(1, local=1, spec=spec))
    alone, _ = await answers(one)
    one.process.kill()
    (pod,) = ready(start(2, tensor=2, local=2, spec=spec))
    shared, told = await answers(pod)
    assert shared == alone
    assert (told.exactness, told.kv_layout) == ("exact", "")
    assert (await answers(pod))[0] == alone
    call = await endless(pod)
    (other,) = pod.others()
    os.kill(other, signal.SIGKILL)
    assert await call.code() == grpc.StatusCode.UNAVAILABLE
    assert pod.end()[0] == EXIT_FAULT
    assert pod.last_word() == Termination(
        "GroupLost",
        "rank 1, a process of this pod, was ended by SIGKILL (so ends one for which the pod has no memory); the whole "
        "group begins anew",
    )
    (again,) = ready(start(2, tensor=2, local=2, spec=spec))
    assert (await answers(again))[0] == alone


@pytest.mark.parametrize("phase", ["Ready", "loading"])
def test_no_rank_outlives_the_process_that_started_it(start, phase):
    (pod,) = start(2, tensor=2, local=2)
    if phase == "Ready":
        ready([pod])
    (other,) = waiting.until(pod.others)
    pod.process.kill()
    pod.process.wait()
    waiting.until(lambda: gone(other))


async def test_a_rank_that_hangs_is_ended_with_its_pod(start):
    (pod,) = ready(start(2, tensor=2, local=2))
    (other,) = pod.others()
    os.kill(other, signal.SIGSTOP)
    assert pod.end()[0] == EXIT_FAULT
    assert "rank 1 is lost: it has not said anything for 5 s" in pod.last_word().message
    assert gone(other)


@pytest.mark.parametrize("told", ["first", "other"])
async def test_all_of_a_pod_end_in_order_when_one_is_told_to(start, told):
    (pod,) = ready(start(2, tensor=2, local=2))
    (other,) = pod.others()
    call = await endless(pod, max_tokens=100)
    os.kill(pod.process.pid if told == "first" else other, signal.SIGTERM)
    tokens = []
    while (chunk := await call.read()) is not grpc.aio.EOF:
        tokens += chunk.token_ids
    assert len(tokens) > 90  # all but what `endless` has read
    assert pod.end()[0] == 0
    assert gone(other)


async def test_a_group_of_pods_with_several_ranks_each(start):
    (one,) = ready(start(1, local=1, spec=FP32))
    alone, _ = await answers(one)
    one.process.kill()
    pods = ready(start(4, tensor=2, local=2, spec=FP32))
    assert (await answers(pods[0]))[0] == alone
    call = await endless(pods[0])
    (other,) = pods[1].others()
    os.kill(other, signal.SIGKILL)
    assert await call.code() == grpc.StatusCode.UNAVAILABLE
    assert [pod.end()[0] for pod in pods] == [EXIT_FAULT, EXIT_FAULT]
    assert "rank 3, a process of this pod, was ended by SIGKILL" in pods[1].last_word().message


def test_ranks_on_cpus_are_told_how_much_memory_each_may_take(start):
    """None of them knows what the others take."""
    (pod,) = start(2, tensor=2, local=2, spec={"engine": {"threads": 1}})
    assert pod.end()[0] == EXIT_CONFIG
    assert pod.last_word().reason == "ModelUnsupported"
    assert "engine.kvCacheMemory is needed" in pod.last_word().message


@pytest.mark.parametrize(
    ("code", "said", "expected"),
    [
        (78, Termination("ModelInvalid", "bad"), ("says: bad", "ModelInvalid", 78)),
        (1, Termination("InternalError", "bad"), ("says: bad", "InternalError", 1)),
        (3, None, ("has ended with code 3; the log has the cause", "GroupLost", 1)),
        (-11, None, ("was ended by SIGSEGV", "GroupLost", 1)),
        (-99, None, ("was ended by signal 99", "GroupLost", 1)),
    ],
)
def test_why_a_pod_ends_is_what_its_rank_said(code, said, expected):
    words, *rest = expected
    assert reason(5, code, said) == Loss(f"rank 5, a process of this pod, {words}", *rest)


# ------------------------------------------------------------------ where a rank is

MODEL = {"uri": "package://p/m.gguf", "servedName": "m"}


def placed(tensor, pipeline=1, **environment):
    spec = {"model": MODEL, "parallelism": {"tensor": tensor, "pipeline": pipeline}, "engine": {"threads": 5}}
    return parse([f"--spec={json.dumps(spec)}"], environment)


def test_the_first_of_a_pod_takes_the_others_in():
    settings = placed(2, ARGOSY_LOCAL_RANKS="2")
    assert (settings.rank, settings.group_leader, settings.group_host) == (0, ("127.0.0.1", 0), "127.0.0.1")
    assert (settings.host, settings.served_host, settings.gpus, settings.threads) == ("::", "::", ("0", "1"), 3)
    other = placed(
        2, ARGOSY_LOCAL_RANKS="2", ARGOSY_LOCAL_RANK="1", ARGOSY_PARENT="7", ARGOSY_GROUP_LEADER="127.0.0.1:9"
    )
    assert (other.rank, other.group_leader, other.group_host) == (1, ("127.0.0.1", 9), "127.0.0.1")
    assert (other.served_host, other.gpus, other.threads, other.parent) == ("127.0.0.1", (), 2, 7)


def test_ranks_of_several_pods_are_reached_from_outside():
    pod = {"ARGOSY_LOCAL_RANKS": "2", "ARGOSY_RANK": "1", "ARGOSY_GROUP_LEADER": "g-0.m:9002"}
    first, other = placed(2, 2, **pod), placed(2, 2, **pod, ARGOSY_LOCAL_RANK="1")
    assert [(s.rank, s.group_leader, s.group_host) for s in (first, other)] == [
        (2, ("g-0.m", 9002), "::"),
        (3, ("g-0.m", 9002), "::"),
    ]
    assert [s.served_host for s in (first, other)] == ["::", "127.0.0.1"]


@pytest.mark.parametrize(
    ("seen", "expected"), [("3,5,7", ("3", "5")), ("", ("", "")), ("GPU-a, GPU-b", ("GPU-a", "GPU-b"))]
)
def test_each_rank_has_a_gpu_of_those_that_the_pod_may_see(seen, expected):
    assert placed(2, ARGOSY_LOCAL_RANKS="2", CUDA_VISIBLE_DEVICES=seen).gpus == expected


@pytest.mark.parametrize(
    ("field", "tensor", "environment"),
    [
        ("CUDA_VISIBLE_DEVICES", 2, {"ARGOSY_LOCAL_RANKS": "2", "CUDA_VISIBLE_DEVICES": "0"}),
        ("ARGOSY_LOCAL_RANKS", 2, {"ARGOSY_LOCAL_RANKS": "3"}),
        ("ARGOSY_LOCAL_RANKS", 3, {"ARGOSY_LOCAL_RANKS": "2"}),
        ("ARGOSY_LOCAL_RANKS", 1, {"ARGOSY_LOCAL_RANKS": "2"}),
        ("ARGOSY_LOCAL_RANK", 2, {"ARGOSY_LOCAL_RANKS": "2", "ARGOSY_LOCAL_RANK": "2"}),
        ("ARGOSY_RANK", 4, {"ARGOSY_LOCAL_RANKS": "2", "ARGOSY_RANK": "2", "ARGOSY_GROUP_LEADER": "h:1"}),
        ("ARGOSY_GROUP_LEADER", 2, {"ARGOSY_LOCAL_RANKS": "2", "ARGOSY_LOCAL_RANK": "1"}),
    ],
)
def test_what_is_wrong_with_a_place_is_named(field, tensor, environment):
    with pytest.raises(InvalidArgumentError) as caught:
        placed(tensor, **environment)
    assert caught.value.field == field
