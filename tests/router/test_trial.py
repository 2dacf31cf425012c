"""Canaries in the router: whose request goes there, what is measured, and that nobody's answer is lost."""

from dataclasses import replace

import grpc
import pytest
from router_kit import FakeWorker, Script
from waiting import eventually

from argosy_api.measures import Trial
from argosy_api.membership import Canary, Deployment, Membership, Worker
from argosy_api.routes import Routes
from argosy_router.clock import now
from argosy_router.fleet.membership_kubernetes import DeploymentView
from argosy_router.routes import routes
from argosy_router.routing.trial import Clocked, conversation, is_for_canary, side


class Of:
    def __init__(self, revision: str) -> None:
        self.revision = revision


@pytest.mark.parametrize("weight", [0, 1, 10, 50, 99, 100])
def test_a_weight_is_a_share_of_the_keys_and_grows_without_sending_anybody_back(weight):
    keys = [f"key-{i}" for i in range(5000)]
    chosen = {key for key in keys if is_for_canary(key, weight)}
    assert abs(len(chosen) / len(keys) - weight / 100) < 0.03
    assert all(is_for_canary(key, min(100, weight + 1)) for key in chosen)


def test_a_side_without_workers_leaves_its_requests_to_the_other():
    canary, old, new = Canary(revision="new", weight=100), Of("old"), Of("new")
    assert side(canary, "k", [old, new], again=False) == [new]
    assert side(canary, "k", [old, new], again=True) == [old]
    assert side(canary, "k", [old], again=False) == [old]
    assert side(replace(canary, weight=0), "k", [old, new], again=False) == [old]
    assert side(replace(canary, weight=0), "k", [new], again=False) == [new]


def test_turns_of_a_conversation_have_one_key():
    first = [{"role": "system", "content": "s"}, {"role": "user", "content": "a?"}]
    later = [*first, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c?"}]
    assert conversation(first, "") == conversation(later, "")
    assert conversation(first, "") != conversation(first, "salt")
    assert conversation(first, "") != conversation([first[0], {"role": "user", "content": "x?"}], "")
    assert conversation([{"role": "user", "content": "\ud800"}], "")
    assert is_for_canary(conversation([{"role": "user", "content": "\ud800"}], ""), 100)


def test_times_and_failures_are_counted_at_the_side_that_they_are_of():
    clock = iter([0.0, 0.1, 0.12, 0.16]).__next__
    trial = Trial("new")
    attempt = Clocked.of(trial, "new", clock)
    for count in (1, 2, 4):
        attempt.came(count)
    attempt.ended()
    attempt.ended()
    failing = Clocked.of(trial, "old", lambda: 1.0)
    failing.failed()
    failing.ended()
    assert (trial.canary.requests, trial.canary.errors, sum(trial.canary.ttft), sum(trial.canary.itl)) == (1, 0, 1, 1)
    assert (trial.stable.requests, trial.stable.errors, sum(trial.stable.ttft), sum(trial.stable.itl)) == (1, 1, 0, 0)


@pytest.mark.parametrize(
    ("told", "canary"),
    [
        ({"revision": "r", "weight": 25, "step": 1}, Canary(revision="r", weight=25)),
        (None, None),
        ({"revision": "r", "weight": 101}, None),
        ({"revision": 7, "weight": 1}, None),
        ("r", None),
    ],
)
def test_the_canary_is_read_from_the_status(told, canary):
    metadata = {"name": "m", "creationTimestamp": "2026-11-28T12:00:00Z", "uid": "u"}
    assert DeploymentView.from_body({"metadata": metadata, "status": {"canary": told}}).canary == canary


def test_a_membership_document_keeps_it():
    view = Membership((Deployment(namespace="n", name="m", served_name="m", canary=Canary(revision="r", weight=1)),))
    assert Membership.from_json(view.to_json()) == view


async def test_requests_are_split_measured_and_told(make_rig):
    rig = await make_rig()
    await rig.add(FakeWorker(worker_id="old", revision="a"), FakeWorker(worker_id="new", revision="b"))
    members = [w.member() for w in rig.workers]

    def announce(canary: Canary | None, *workers: Worker):
        rig.cluster.announce(*(workers or members), canary=canary)

    await eventually(lambda: all(w.facts is not None for w in rig.state.workers.values()))
    announce(Canary(revision="b", weight=50))
    await eventually(lambda: rig.state.trial is not None)

    async def ask(text: str) -> str:
        body = {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 3}
        response, answer = await rig.post("/v1/chat/completions", body)
        assert response.status == 200, answer
        return response.headers["x-argosy-worker"]

    first = [await ask(f"Question {i}?") for i in range(24)]
    assert set(first) == {"old", "new"}
    assert [await ask(f"Question {i}?") for i in range(24)] == first

    [deployment] = Routes.parse(routes(rig.router.fleet, now()).to_json()).deployments
    assert deployment.trial is not None
    assert deployment.trial.revision == "b"
    assert deployment.trial.canary.requests == 2 * first.count("new") == sum(deployment.trial.canary.ttft)
    assert deployment.trial.stable.requests == 2 * first.count("old")
    assert deployment.trial.canary.errors == 0

    announce(Canary(revision="c", weight=50))
    await eventually(lambda: rig.state.trial.revision == "c")
    assert rig.state.trial.stable.requests == 0  # another canary is measured anew
    announce(None)
    await eventually(lambda: rig.state.trial is None)


@pytest.mark.parametrize(("code", "errors"), [("UNAVAILABLE", 1), ("RESOURCE_EXHAUSTED", 0)])
async def test_a_canary_that_fails_costs_no_answer(make_rig, code, errors):
    rig = await make_rig()
    bad = FakeWorker(worker_id="new", revision="b", script=Script(fail_first=getattr(grpc.StatusCode, code)))
    await rig.add(FakeWorker(worker_id="old", revision="a"), bad)
    await eventually(lambda: all(w.facts is not None for w in rig.state.workers.values()))
    rig.cluster.announce(*(w.member() for w in rig.workers), canary=Canary(revision="b", weight=100))
    await eventually(lambda: rig.state.trial is not None)
    response, _ = await rig.post("/v1/completions", {"model": "m", "prompt": "x", "max_tokens": 2})
    assert (response.status, response.headers["x-argosy-worker"]) == (200, "old")
    trial = rig.state.trial
    assert (trial.canary.requests, trial.canary.errors, sum(trial.canary.ttft)) == (1, errors, 0)
    assert (trial.stable.requests, trial.stable.errors, sum(trial.stable.ttft)) == (1, 0, 1)
