"""When a child is applied again, and when what a watch shows is only late."""

import asyncio
import copy

import pytest
from operator_kit import NAMESPACE, document

from argosy_api.resource import parse
from argosy_operator import carry_out
from argosy_operator.manifests import PlanSettings
from argosy_operator.observe import Children, ChildView, fingerprint
from argosy_operator.plan import Observed, Owner, child_ref, plan

OWNER = Owner(namespace=NAMESPACE, name="m", uid="owner")


class Api:
    """Makes whatever it is asked for."""

    def __init__(self):
        self.calls = []
        self.made = {}

    async def create(self, manifest):
        return self._take("create", manifest, uid=f"uid-{len(self.calls)}")

    async def apply(self, manifest, uid):
        return self._take("apply", manifest, uid=uid)

    def _take(self, verb, manifest, uid):
        ref = child_ref(manifest)
        self.calls.append((verb, ref.kind))
        self.made[ref] = copy.deepcopy(manifest)
        self.made[ref]["metadata"]["uid"] = uid
        return self.made[ref]


@pytest.fixture
def pass_(monkeypatch):
    """One pass at a time of day, with what a watch shows; the calls that it made."""
    api, made = Api(), carry_out.Made()
    intent = plan(parse(document()), Observed(), PlanSettings())

    def run(at, shown):
        monkeypatch.setattr(carry_out.time, "monotonic", lambda: at)
        children = {
            ref: ChildView(ref=ref, uid=o["metadata"]["uid"], fingerprint=fingerprint(o)) for ref, o in shown.items()
        }
        api.calls.clear()
        asyncio.run(carry_out.carry_out(api, OWNER, intent, Children(children=children), made, resync_s=60))
        return list(api.calls)

    run.api = api
    return run


def test_a_watch_that_is_seconds_behind_costs_no_call(pass_):
    first = pass_(100.0, {})
    assert {verb for verb, _ in first} == {"create"}
    for at in (100.5, 102.0, 109.0):
        assert pass_(at, {}) == []
    assert pass_(109.5, dict(pass_.api.made)) == []


def test_what_goes_after_it_was_seen_is_made_again_at_once(pass_):
    first = pass_(100.0, {})
    assert pass_(100.2, dict(pass_.api.made)) == []
    assert pass_(100.3, {}) == first


def test_what_never_shows_is_made_again(pass_):
    first = pass_(100.0, {})
    assert pass_(100.0 + carry_out.LATE_ECHO_S, {}) == first


def test_what_somebody_changed_before_we_saw_it_is_changed_back(pass_):
    pass_(100.0, {})
    changed = {ref: {**copy.deepcopy(o), "extra": 1} for ref, o in pass_.api.made.items()}
    assert pass_(100.5, changed) == []
    assert {verb for verb, _ in pass_(100.0 + carry_out.OWN_ECHO_S, changed)} == {"apply"}
