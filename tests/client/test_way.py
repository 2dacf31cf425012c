"""What the client sends next, what counts of what comes, and when it gives up: no network, no clock."""

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy import DeadlineError, FinishReason, InvalidArgumentError, NotFoundError, OverloadedError, UnavailableError
from argosy.question import question
from argosy.routers import PASSED_OVER_S, Routers
from argosy.way import PATIENCE_S, OutOfOrderError, Way
from argosy_api.grpc_status import RETRY_AFTER_KEY
from argosy_api.retries import FLOOR
from argosy_api.v1 import worker_pb2 as pb

Code = grpc.StatusCode


class RpcError(grpc.RpcError):
    def __init__(self, code, details="", trailing=()):
        self._parts = code, details, trailing

    def code(self):
        return self._parts[0]

    def details(self):
        return self._parts[1]

    def trailing_metadata(self):
        return self._parts[2]


def way(routers=2, timeout=None):
    return Way(question("m", "hello"), Routers(routers), timeout=timeout, now=0.0)


def chunk(index, count=1, text="x", **more):
    return pb.GenerateChunk(
        index=index, token_ids=range(index, index + count), text=text, **{"attempt": 1, "resume_token": b"t", **more}
    )


GONE = RpcError(Code.UNAVAILABLE, "gone")


def test_the_next_router_is_told_what_has_come():
    it = way()
    first = it.next_try(0.0)
    assert (first.router, first.timeout, first.request.HasField("resume")) == (0, None, False)
    it.take(chunk(0, text="é"), 0.1)
    it.take(chunk(1, 2, text="", resume_token=b"", attempt=2), 0.2)
    assert it.failed(0, GONE, 0.3) == 0.0  # at once: another one is well
    second = it.next_try(0.3)
    assert second.router == 1
    resume = second.request.resume
    assert (resume.token, list(resume.tokens), resume.text_bytes, resume.attempt) == (b"t", [0, 1, 2], 2, 2)
    piece = it.take(chunk(3, attempt=3, finish_reason=pb.FINISH_REASON_LENGTH), 0.4)
    assert (piece.tokens, piece.finish, it.finished) == ((3,), FinishReason.LENGTH, True)


def test_where_nothing_came_the_request_begins_anew():
    it = way()
    it.failed(it.next_try(0.0).router, GONE, 0.0)
    assert not it.next_try(0.0).request.HasField("resume")


@pytest.mark.parametrize("index", [0, 2, 7])
def test_a_token_that_is_not_due_does_not_count(index):
    it = way()
    it.take(chunk(0), 0.0)
    with pytest.raises(OutOfOrderError):
        it.take(chunk(index), 0.1)
    it.failed(0, OutOfOrderError("x"), 0.1)
    assert list(it.next_try(0.1).request.resume.tokens) == [0]


@pytest.mark.parametrize(
    "problem",
    [
        None,
        GONE,
        RpcError(Code.CANCELLED),
        RpcError(Code.UNKNOWN, "Stream removed"),
        RpcError(Code.INTERNAL, "Received RST_STREAM with error code 2"),
    ],
)
def test_what_a_lost_router_ends_with_is_tried_again(problem):
    assert way().failed(0, problem, 0.0) == 0.0


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (RpcError(Code.INVALID_ARGUMENT, "max_tokens: is 0"), InvalidArgumentError),
        (RpcError(Code.NOT_FOUND, "no such model"), NotFoundError),
        (RpcError(Code.DEADLINE_EXCEEDED), DeadlineError),
    ],
)
def test_what_a_router_refuses_is_not(problem, kind):
    with pytest.raises(kind):
        way().failed(0, problem, 0.0)


def test_a_full_router_says_when():
    full = RpcError(Code.RESOURCE_EXHAUSTED, "full", ((RETRY_AFTER_KEY, "1500"),))
    assert way().failed(0, full, 0.0) == 1.5
    with pytest.raises(OverloadedError):  # it would be too late
        way(timeout=1.0).failed(0, full, 0.0)
    with pytest.raises(OverloadedError):
        way().failed(0, full, PATIENCE_S)


def test_patience_ends_and_begins_anew_with_each_token():
    it = way()
    it.failed(0, GONE, PATIENCE_S - 1)
    it.take(chunk(0), PATIENCE_S)
    it.failed(0, GONE, 2 * PATIENCE_S - 1)
    with pytest.raises(UnavailableError, match="after 1 tokens"):
        it.failed(1, GONE, 2 * PATIENCE_S)


def test_with_no_router_left_it_waits_longer_and_longer():
    it = way(routers=1)
    waits = [it.failed(0, GONE, 0.0) for _ in range(5)]
    assert waits == sorted(waits)
    assert 0 < waits[0] <= 0.05


def test_retries_are_bounded_by_a_budget_of_all_requests():
    routers = Routers(2)
    ways = [Way(question("m", "x"), routers, timeout=None, now=0.0) for _ in range(5)]
    for _ in range(2 * 5 + FLOOR):  # under way, and come lately
        ways[0].failed(0, GONE, 0.0)
    with pytest.raises(UnavailableError, match="too many"):
        ways[1].failed(0, GONE, 0.0)


def test_time_left_travels_with_each_try():
    it = way(timeout=2.0)
    assert it.next_try(0.5).timeout == 1.5
    with pytest.raises(DeadlineError):
        it.next_try(2.0)


def test_an_answer_without_a_token_to_go_on_with_ends():
    """Of a router that knows nothing of it."""
    it = way()
    it.take(chunk(0, resume_token=b""), 0.0)
    with pytest.raises(UnavailableError, match="said not how"):
        it.failed(0, GONE, 0.0)


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 3)), max_size=20))
def test_who_failed_a_moment_ago_is_passed_over_while_another_is_well(events):
    routers, now, failed_at = Routers(4), 0.0, {}
    for router, pause in events:
        now += pause
        routers.failed(router, now)
        failed_at[router] = now
        picked = routers.pick(now)
        bad = {r for r, at in failed_at.items() if now - at < PASSED_OVER_S}
        assert picked not in bad or len(bad) == 4


def test_each_in_its_turn():
    routers = Routers(3)
    assert [routers.pick(0.0) for _ in range(6)] == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [("hi", "text"), ([1, 2], "tokens"), ([{"role": "user", "content": "hi"}], "chat")],
)
def test_three_forms_of_a_prompt(prompt, kind):
    assert question("m", prompt).WhichOneof("prompt") == kind


@pytest.mark.parametrize("prompt", [[1, -1], [1 << 32], [1, "a"], [{"role": "user"}], [{"role": 1, "content": "x"}]])
def test_another_form_is_refused_by_name(prompt):
    with pytest.raises(InvalidArgumentError) as caught:
        question("m", prompt)
    assert caught.value.field.startswith("prompt")
