"""The parts of the endpoint picker without a gateway: which router is whose, what a pick counts for, what is read."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from router_kit import FakeWorker
from waiting import eventually

from argosy_api.extproc import extproc_pb2 as pb
from argosy_api.params import SamplingParams
from argosy_router.ask import Ask, Caller
from argosy_router.fronts.picker_messages import PART_BYTES, headers_of, parts, subset_of
from argosy_router.picked import NO_PICK, Picked, parsed, written
from argosy_router.picking.pairs import FALLBACKS, Pairs, endpoints, paired
from argosy_router.picking.picker import Picker
from argosy_router.picking.picks import Picks
from argosy_router.picking.routers import Routers
from argosy_router.settings import parse

names = st.lists(st.text("abcdefgh0123", min_size=1, max_size=4), min_size=1, max_size=30, unique=True)


@given(workers=names, routers=names)
def test_each_worker_has_one_router_and_no_router_more_than_its_share(workers, routers):
    found = paired(workers, routers)
    assert found.keys() == set(workers)
    assert all(sorted(order) == sorted(routers) for order in found.values())
    firsts = Counter(order[0] for order in found.values())
    assert max(firsts.values()) <= -(-len(workers) // len(routers))
    assert found == paired(reversed(workers), list(reversed(routers)))
    assert found == {w: Pairs().order(w, workers, routers) for w in workers}


def test_a_router_that_leaves_moves_its_own_workers_and_few_others():
    workers, routers = [f"w{i}" for i in range(100)], [f"10.0.0.{i}:8000" for i in range(5)]
    before, after = paired(workers, routers), paired(workers, routers[:-1])
    moved = [w for w in workers if before[w][0] != after[w][0]]
    assert {w for w in workers if before[w][0] == routers[-1]} <= set(moved)
    assert len(moved) < 50


def test_a_gateway_is_told_of_a_few_to_fall_back_on():
    order = [f"10.0.0.{i}:8000" for i in range(9)]
    assert endpoints(order).split(",") == order[: 1 + FALLBACKS]
    assert endpoints(order[:1]) == order[0]


@pytest.mark.parametrize(
    "header", [None, "", "w0", ";w0", "0123456789abcdef;", "0123456789abcdef;w 0", "0123456789ABCDEF;w0", "x" * 9999]
)
def test_what_is_no_pick_is_ignored(header):
    assert parsed(header) == NO_PICK


def test_a_pick_comes_through_its_header():
    pick = Picked("default/m-leader-0", "0123456789abcdef")
    assert parsed(written(pick)) == pick


@given(body=st.binary(max_size=200), copies=st.integers(0, 1500), end=st.booleans())
def test_bodies_are_handed_back_whole(body, copies, end):
    body *= copies
    streamed = [r.request_body.response.body_mutation.streamed_response for r in parts("request_body", body, end=end)]
    assert b"".join(s.body for s in streamed) == body
    assert max(len(s.body) for s in streamed) <= PART_BYTES
    assert [s.end_of_stream for s in streamed] == [*[False] * (len(streamed) - 1), end]


@pytest.mark.parametrize(
    ("value", "subset"), [(["a:1", "b:2"], ["a:1", "b:2"]), ("a:1, b:2", ["a:1", "b:2"]), ([], []), ("", [])]
)
def test_hints_are_read_as_lists_and_as_text(value, subset):
    request = pb.ProcessingRequest()
    assert subset_of(request) is None
    request.metadata_context.filter_metadata["envoy.lb.subset_hint"].update(
        {"x-gateway-destination-endpoint-subset": value}
    )
    assert subset_of(request) == subset


def test_headers_are_read_from_either_field():
    given_ = [pb.HeaderValue(key="A", value="1"), pb.HeaderValue(key="a", raw_value=b"\xe9")]
    assert headers_of(pb.HttpHeaders(headers=pb.HeaderMap(headers=given_))) == {"a": ["1", "é"]}


def test_routers_are_named_where_a_picker_is():
    more = ["--picker-port=9002", "--picker-routers=argosy.ns.svc:8000, [::1]:80"]
    settings = parse(["--membership=kubernetes", *more], {})
    assert settings.picker_routers == (("argosy.ns.svc", 8000), ("::1", 80))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--picker-port=9002"], "needs --picker-routers"),
        (["--picker-port=9002", "--picker-routers=host"], "'host' is not HOST:PORT"),
        (["--picker-port=9002", "--picker-routers=host:0"], "'host:0' is not HOST:PORT"),
        (["--picker-port=99999", "--picker-routers=host:1"], "--picker-port"),
    ],
)
def test_wrong_settings_are_named(options, named, capsys):
    with pytest.raises(SystemExit):
        parse(["--membership=kubernetes", *options], {})
    assert named in capsys.readouterr().err


async def test_names_are_looked_up_and_what_is_not_found_keeps_what_was_known():
    places = [("localhost", 80)]
    routers = Routers(places)
    await routers.look()
    known = routers.addresses
    assert known in (("127.0.0.1:80",), ("[::1]:80",))
    places[0] = ("no-such-name.invalid", 80)
    await routers.look()
    assert routers.addresses == known


@pytest.fixture
async def picker(make_rig):
    rig = await make_rig()
    await rig.add(FakeWorker(worker_id="w0"), FakeWorker(worker_id="w1"))
    await rig.until_indexed()
    service, picks = rig.router.service, Picks()
    made = Picker(rig.router.fleet, service._field.dispatcher, service.admission, picks, Routers([]))
    return rig, made, picks


def _ask(model="m"):
    return Ask(model=model, fields=["prompt"], prompts=[list(range(200))], params=SamplingParams(max_tokens=4))


async def test_a_pick_counts_as_queued_until_the_workers_report_must_have_it(picker):
    rig, made, picks = picker
    account = made.account()
    pick = await made.pick(account, _ask(), Caller(request_id="r"))
    assert len(picks) == 1
    assert not rig.idle()
    sibling = await made.pick(account, _ask(), Caller(request_id="s"))
    assert sibling.worker == pick.worker, "its blocks are promised"
    await eventually(rig.idle, what="the report has it")
    assert len(rig.state.predictions)
    for each in (pick, sibling):
        each.close()
        each.close()
    assert not len(picks)
    assert not len(rig.state.predictions)
    account.close()
    assert rig.router.service.admission.held == 0


async def test_who_came_and_what_was_answered_counts_no_more(picker):
    rig, made, picks = picker
    account = made.account()
    first, second = [await made.pick(account, _ask(), Caller(request_id=i)) for i in "ab"]
    picks.came(second.token)
    picks.came(second.token)
    picks.came("0" * 16)
    assert len(picks) == 1
    first.answered()
    assert not len(picks)
    assert rig.idle()
    assert len(rig.state.predictions), "computed, and not yet told by events"
    account.close()


async def test_what_cannot_be_picked_is_nobodys_fault(picker):
    rig, made, _ = picker
    rig.cluster.announce()
    await eventually(lambda: not rig.state.workers)
    assert await made.pick(made.account(), _ask(), Caller(request_id="r")) is None
