"""How the processes of a group find each other and notice that one is lost, without a model."""

import contextlib
import json
import queue
import socket
import threading

import pytest
import waiting

from argosy_api import limits, net
from argosy_api.errors import InvalidArgumentError, ModelUnsupportedError
from argosy_api.model_uri import ModelUri
from argosy_api.pipeline import Cut, Place, layers_of
from argosy_worker.core.facts import EXACT
from argosy_worker.group import lines
from argosy_worker.group.leader import Hello, Leader, joint
from argosy_worker.group.member import Begin, Member
from argosy_worker.serve.settings import parse
from argosy_worker.sim import load as simulated


def hello(rank=1, ranks=2, **more):
    known = {"spec": "s", "blocks": 7, "fingerprint": f"f{rank}", "exactness": EXACT, "weights_bytes": 5}
    return Hello(rank=rank, ranks=ranks, **{**known, **more})


def quiet(*_):
    pass


@pytest.fixture(params=["127.0.0.1", net.EVERYWHERE])
def leader(request):
    news = queue.SimpleQueue()
    made = Leader(request.param, 0, ranks=2, spec="s", lost=news.put, leaving=lambda: news.put("leaving"))
    made.news = news
    yield made
    made._server.close()


def member(leader):
    news = queue.SimpleQueue()
    made = Member("127.0.0.1", leader.port, own_host="127.0.0.1", ended=news.put)
    made.news = news
    return made


def raw(leader):
    return socket.create_connection(("127.0.0.1", leader.port), timeout=30)


def said(connection):
    """What it was told beside beats."""
    with connection.makefile("rb") as file:
        return next(m for m in map(json.loads, file) if m["kind"] != "beat")


def joined(leader):
    """A member that has begun; the ring is not made."""
    one, found = member(leader), queue.SimpleQueue()
    threading.Thread(target=lambda: found.put(one.wait(hello(), quiet)), daemon=True).start()
    assert leader.wait(quiet) == [hello()]
    leader._members.begun = True
    for line in leader._members.lines.values():
        line.send({"kind": "begin", "blocks": 3, "store": 4, "rows": "gloo"})
    assert found.get(timeout=60) == Begin(3, 4)
    return one


@pytest.mark.parametrize("layers", [1, 2, 7, 30, 32])
@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_each_layer_is_of_one_rank(layers, ranks):
    if ranks > layers:
        with pytest.raises(ModelUnsupportedError, match=r"parallelism\.pipeline"):
            layers_of(layers, ranks, 0)
        return
    parts = [layers_of(layers, ranks, rank) for rank in range(ranks)]
    assert [layer for part in parts for layer in part] == list(range(layers))
    sizes = [len(part) for part in parts]
    assert sizes == sorted(sizes)
    assert sizes[-1] - sizes[0] <= 1


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize(("kv_heads", "width"), [(3, 576), (8, 1000), (3, 49152)])
def test_each_head_and_each_output_is_of_one_rank(parts, kv_heads, width):
    cuts = [Cut(part, parts) for part in range(parts)]
    assert [head for cut in cuts for head in cut.heads(kv_heads)] == list(range(kv_heads))
    assert [output for cut in cuts for output in cut.outputs(width)] == list(range(width))
    assert all(cut.outputs(width).start % 32 == 0 for cut in cuts)


def test_what_cannot_be_cut_is_refused():
    with pytest.raises(ModelUnsupportedError, match=r"parallelism\.tensor is 4, but the model has 3 key/value heads"):
        Cut(0, 4).heads(3)
    with pytest.raises(ModelUnsupportedError, match=r"parallelism\.tensor is 3"):
        Cut(0, 3).outputs(64)


@pytest.mark.parametrize(("stages", "parts"), [(1, 1), (1, 3), (2, 1), (2, 2), (3, 4)])
def test_rows_pass_every_rank_and_come_back(stages, parts):
    ranks = [Place(rank, stages, parts) for rank in range(stages * parts)]
    sends = {(0, peer) for peer in ranks[0].peers} | {(p.rank, p.after) for p in ranks if p.after is not None}
    awaited = {(p.before, p.rank) for p in ranks if p.rank or stages > 1}
    assert sends == awaited
    assert sorted((p.stage, p.cut.part) for p in ranks) == [(s, t) for s in range(stages) for t in range(parts)]


def test_a_member_is_waited_for_and_told_to_begin(leader):
    told, one = [], member(leader)

    def come(text, _):
        told.append(text)
        threading.Thread(target=lambda: one.wait(hello(), quiet), daemon=True).start()

    assert leader.wait(come) == [hello()]
    assert told == ["waiting for rank 1 of the group of 2"]


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (hello(2).model_dump(), "rank 2 of 2"),
        (hello(1, 3).model_dump(), "rank 1 of 3"),
        (hello(spec="other").model_dump(), "something else"),
        ({"rank": "x"}, "not sound"),
    ],
)
def test_who_does_not_belong_is_refused(leader, first, why):
    with raw(leader) as connection:
        connection.sendall(json.dumps({"kind": "hello", "hello": first}).encode() + b"\n")
        answer = said(connection)
    assert (answer["kind"], why in answer["why"]) == ("refused", True)


@pytest.mark.parametrize("words", [b"\x00\xff\n", b"[]\n", b"{}\n", b"x" * 200_000])
def test_who_says_nonsense_is_cut_off_and_harms_nobody(leader, words):
    with raw(leader) as connection:
        connection.sendall(words)
        waiting.until(lambda: connection.recv(65536) == b"")
    joined(leader)


def test_strangers_take_no_more_than_their_places(leader):
    with contextlib.ExitStack() as stack:
        strangers = [stack.enter_context(raw(leader)) for _ in range(limits.MAX_GROUP_CONNECTIONS)]
        waiting.until(lambda: len(leader._open) == len(strangers))
        with raw(leader) as late:
            assert late.recv(1) == b""
    joined(leader)


def test_a_member_that_goes_before_all_begin_is_waited_for_again(leader):
    with raw(leader) as connection:
        connection.sendall(json.dumps({"kind": "hello", "hello": hello().model_dump()}).encode() + b"\n")
        assert leader.wait(quiet) == [hello()]
    waiting.until(lambda: not leader._members.hellos)
    joined(leader)
    assert leader.news.empty()


def test_a_lost_member_is_told_once(leader):
    one = joined(leader)
    one._line.close()
    assert "rank 1 is lost: it has closed the connection" in leader.news.get(timeout=60)
    assert leader.news.empty()


def test_a_silent_member_is_lost(leader, monkeypatch):
    monkeypatch.setattr(lines, "LOST_S", 0.3)
    with raw(leader) as connection:
        connection.sendall(json.dumps({"kind": "hello", "hello": hello().model_dump()}).encode() + b"\n")
        leader.wait(quiet)
        leader._members.begun = True
        assert "has not said anything" in leader.news.get(timeout=60)


def test_a_member_hears_of_the_end_and_of_a_lost_leader(leader):
    one = joined(leader)
    one.leave()
    assert leader.news.get(timeout=60) == "leaving"
    leader.end()
    assert one.news.get(timeout=60) == ""
    for line in list(leader._members.lines.values()):
        line.close()
    assert "rank 0 is lost" in one.news.get(timeout=60)


def test_another_process_of_a_rank_waits_until_the_group_begins_anew(leader):
    joined(leader)
    with raw(leader) as connection:
        connection.sendall(json.dumps({"kind": "hello", "hello": hello().model_dump()}).encode() + b"\n")
        assert "begin anew" in said(connection)["why"]


def test_groups_are_equal_only_where_all_ranks_are():
    facts = simulated(ModelUri.parse("sim://m"), quiet).facts
    members = [hello(1, 3), hello(2, 3)]
    one = joint(facts, members)
    assert one == joint(facts, members)
    others = [[hello(1, 3), hello(2, 3, fingerprint="x")], [hello(1)], list(reversed(members))]
    assert len({one.fingerprint, facts.fingerprint, *(joint(facts, m).fingerprint for m in others)}) == 5
    odd = joint(facts, [hello(exactness="no"), hello(2)])
    assert (one.exactness, odd.exactness, one.weights_bytes) == (EXACT, "no", 5)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ARGOSY_RANK", "2"), ("ARGOSY_RANK", "-1"), ("ARGOSY_RANK", ""), ("ARGOSY_GROUP_LEADER", "host"),
     ("ARGOSY_GROUP_LEADER", ":9"), ("ARGOSY_GROUP_LEADER", "h:0"), ("ARGOSY_GROUP_LEADER", "h:70000")],
)  # fmt: skip
def test_a_rank_needs_its_place(variable, value):
    spec = '--spec={"model": {"uri": "sim://m", "servedName": "m"}, "parallelism": {"pipeline": 2}}'
    sound = {"ARGOSY_RANK": "1", "ARGOSY_GROUP_LEADER": "[::1]:9002"}
    settings = parse([spec], sound)
    assert (settings.rank, settings.ranks, settings.group_leader) == (1, 2, ("::1", 9002))
    with pytest.raises(InvalidArgumentError) as caught:
        parse([spec], {**sound, variable: value})
    assert caught.value.field == variable
