"""What is refused before its body is read: whatever it may ask for, it would be refused."""

import asyncio
import json

import pytest
from access_kit import Access
from router_kit import FakeWorker

from argosy_api import limits
from argosy_api.access import TenantLimits
from argosy_api.errors import OverloadedError
from argosy_api.membership import Deployment
from argosy_router.fleet.deployment import DeploymentState
from argosy_router.gate import Gate
from argosy_router.metrics import Metrics
from argosy_router.tenants.identity import Identity
from argosy_router.tenants.tenant import ANYBODY, Tenant


class Line:
    """Stands in for the line of one deployment."""

    def __init__(self, wait=None):
        self.wait = wait
        self.asked = []

    def check(self, tenant, priority, answers, deadline):
        self.asked.append((tenant.name, priority, answers, deadline))
        if self.wait is not None:
            raise OverloadedError("full", retry_after_s=self.wait)


@pytest.fixture
def gate():
    made = Gate(Identity(), Metrics(), longest_s=2.0)

    def with_lines(**lines):
        states = [DeploymentState(Deployment(namespace="n", name=name, served_name=name)) for name in lines]
        made._turns.update(
            {state: line for state, line in zip(states, lines.values(), strict=True) if line is not None}
        )
        return made, states

    return with_lines


def shed(gate):
    found = [s for m in gate._metrics.shed.collect() for s in m.samples if s.name.endswith("_total")]
    return {tuple(s.labels.values()): s.value for s in found}


async def test_one_deployment_that_would_refuse_is_enough_where_it_is_the_only_one(gate):
    made, states = gate(a=Line(3.0))
    with pytest.raises(OverloadedError):
        made.glance(states, ANYBODY)
    assert shed(made) == {("a", "contended"): 1}


@pytest.mark.parametrize("other", [None, Line()])
async def test_another_one_that_may_take_it_lets_it_be_read(gate, other):
    made, states = gate(a=Line(3.0), b=other)
    made.glance(states, ANYBODY)
    assert shed(made) == {}


async def test_the_soonest_of_all_tells_when_to_try_again(gate):
    made, states = gate(a=Line(3.0), b=Line(1.5), c=Line(9.0))
    with pytest.raises(OverloadedError) as caught:
        made.glance(states, ANYBODY)
    assert caught.value.retry_after_s == 1.5
    assert shed(made) == {("-", "contended"): 1}


async def test_nothing_that_a_request_may_say_would_help_it(gate):
    line = Line()
    made, states = gate(a=line)
    made.glance(states, Tenant("t", TenantLimits(max_priority=7)))
    assert line.asked == [("t", 7, 1, None)], "the best priority, one answer, no deadline"


async def test_a_glance_takes_nothing(gate):
    made, states = gate(a=None)
    tenant = Tenant("t", TenantLimits(concurrency=1, requests_per_minute=60))
    for _ in range(200):
        made.glance(states, tenant)
    taken = made.enter(states[0], tenant, 1, priority=0, deadline=None)
    with pytest.raises(OverloadedError, match="1 answers under way"):
        made.glance(states, tenant)
    made.leave(taken)
    assert made.quotas.usage()["t"].requests == 1


async def refused_head(rig, headers):
    """What comes back for a head whose body is never sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.router.http_port)
    lines = ["POST /v1/completions HTTP/1.1", "host: x", "content-type: application/json", "content-length: 1000000"]
    writer.write("\r\n".join([*lines, *headers, "", ""]).encode())
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.split(": ", 1) for line in head.decode().lower().split("\r\n")[1:] if line)
    body = json.loads(await reader.readexactly(int(fields["content-length"])))
    writer.close()
    return head.split()[1], fields, body


async def test_a_tenant_with_all_that_he_may_have_is_told_so_before_he_has_sent_it(make_rig, tmp_path):
    access = Access(tmp_path, tenants={"a": {"requestsPerMinute": 1}})
    key = access.key("a")
    rig = await make_rig(**access.settings)
    await rig.add(FakeWorker())
    body = {"model": "m", "prompt": "x", "max_tokens": 1}
    headers = {"authorization": f"Bearer {key}"}
    while (await rig.post("/v1/completions", body, headers=headers))[0].status == 200:
        pass
    status, fields, error = await refused_head(rig, [f"authorization: Bearer {key}"])
    assert (status, error["error"]["code"]) == (b"429", "Overloaded")
    assert int(fields["retry-after"]) >= 1
    assert rig.router.service.admission.held == 0


async def test_a_router_that_carries_all_it_may_says_so_at_once(rig):
    rig.router.service.admission.running = limits.MAX_INFLIGHT
    status, _, error = await refused_head(rig, [])
    assert (status, error["error"]["message"]) == (b"429", "the router carries as many requests as it may")
    rig.router.service.admission.running = 0
