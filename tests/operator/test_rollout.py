"""The pure decision about a rollout: what becomes of revisions, and which workers there must be."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from argosy_api.spec.change import RolloutSpec
from argosy_operator.revisions import FAILED, GOOD, PENDING, PROVEN, Revision, pruned, with_target
from argosy_operator.rollout import Phase, Wanted, Worker, plan_rollout

TEMPLATES = '{"leader":{}}'
ROLES = '{"decode":{},"prefill":{}}'
NOW = 1_000_000.0


def revision(name, number, state=GOOD, *, began=NOW, templates=TEMPLATES, why=""):
    return Revision(hash=name, number=number, state=state, began=int(began), templates=templates, why=why)


def wanted(name="new", replicas=2, *, templates=TEMPLATES, **rollout):
    return Wanted(revision=name, templates=templates, replicas=replicas, rollout=RolloutSpec.model_validate(rollout))


def workers(name, count, *, track="stable", since=NOW, **facts):
    return [Worker(revision=name, track=track, routable=True, routable_since=since, **facts)] * count


def broken(name="new", problem="The image does not start.", hopeless_at=NOW + 20, track="stable"):
    return Worker(revision=name, track=track, problem=problem, hopeless_at=hopeless_at)


def states(decision):
    return [(r.hash, r.number, r.state) for r in decision.history]


OLD = revision("old", 1)


def test_a_revision_is_good_once_all_its_workers_can_be_routed_to():
    first = plan_rollout((), wanted(), (), NOW)
    assert states(first) == [("new", 1, PENDING)]
    assert (first.phase, first.stable, first.stable_replicas, first.current) == (Phase.ROLLING, "new", 2, "")
    assert plan_rollout(first.history, wanted(), workers("new", 1), NOW + 5).phase is Phase.ROLLING
    done = plan_rollout(first.history, wanted(), workers("new", 2), NOW + 5)
    assert states(done) == [("new", 1, GOOD)]
    assert (done.phase, done.current) == (Phase.COMPLETE, "new")
    # and stays so, whatever becomes of its workers
    assert plan_rollout(done.history, wanted(), [broken()], NOW + 1e6) == done


def test_a_change_that_makes_no_progress_is_taken_back_with_what_is_wrong():
    begun = plan_rollout((OLD,), wanted(progressDeadlineSeconds=60), workers("old", 2), NOW)
    assert begun.stable == "new"
    assert begun.due == 60
    slow = [*workers("old", 2), broken(hopeless_at=float("inf"))]
    late = plan_rollout(begun.history, wanted(progressDeadlineSeconds=60), slow, NOW + 59.9)
    assert late.phase is Phase.ROLLING
    back = plan_rollout(begun.history, wanted(progressDeadlineSeconds=60), slow, NOW + 60)
    assert states(back) == [("old", 1, GOOD), ("new", 2, FAILED)]
    assert (back.phase, back.stable, back.stable_replicas, back.failed) == (Phase.ROLLED_BACK, "old", 2, "new")
    assert back.current == "old"
    assert "The image does not start." in back.message
    assert "60 s" in back.message


def test_each_worker_that_is_reached_gives_time_to_the_next():
    begun = plan_rollout((OLD,), wanted(replicas=3, progressDeadlineSeconds=60), (), NOW)
    one = [*workers("new", 1, since=NOW + 50), broken(hopeless_at=float("inf"))]
    assert plan_rollout(begun.history, wanted(replicas=3, progressDeadlineSeconds=60), one, NOW + 100).failed == ""
    assert plan_rollout(begun.history, wanted(replicas=3, progressDeadlineSeconds=60), one, NOW + 110).failed == "new"


def test_what_does_not_pass_by_itself_is_not_waited_for():
    begun = plan_rollout((OLD,), wanted(), (), NOW)
    there = [*workers("old", 2), broken()]
    waiting = plan_rollout(begun.history, wanted(), there, NOW + 5)
    assert (waiting.phase, waiting.due) == (Phase.ROLLING, 15.0)
    back = plan_rollout(begun.history, wanted(), there, NOW + 20)
    assert (back.failed, back.history[-1].why) == ("new", "The image does not start.")


def test_a_failed_revision_is_left_until_something_else_is_asked_for():
    failed = (OLD, revision("new", 2, FAILED, why="It was bad."))
    for time in (NOW, NOW + 1e6):
        kept = plan_rollout(failed, wanted(), workers("old", 2), time)
        assert (kept.stable, kept.history) == ("old", failed)
    back = plan_rollout(failed, wanted("old"), workers("old", 2), NOW)
    assert (back.stable, back.failed, back.phase) == ("old", "", Phase.COMPLETE)
    assert states(back) == [("old", 3, GOOD)]  # what failed needs no place in the history
    again = plan_rollout(back.history, wanted("new"), workers("old", 2), NOW)
    assert (again.stable, again.history[-1].state) == ("new", PENDING)


def test_without_a_good_revision_there_is_nothing_to_go_back_to():
    for history in ((), (revision("old", 1, PENDING),), (revision("old", 1, templates=ROLES),)):
        begun = plan_rollout(history, wanted(), (), NOW)
        late = plan_rollout(begun.history, wanted(), [broken()], NOW + 1e6)
        assert (late.stable, late.phase) == ("new", Phase.ROLLING)


def test_time_does_not_count_while_no_worker_is_wanted():
    begun = plan_rollout((OLD,), wanted(), (), NOW)
    asleep = plan_rollout(begun.history, wanted(replicas=0), (), NOW + 1e6)
    assert asleep.failed == ""
    awake = plan_rollout(asleep.history, wanted(), (), NOW + 2e6)
    assert (awake.failed, awake.due) == ("", 600)
    assert plan_rollout(awake.history, wanted(), [broken(hopeless_at=1e99)], NOW + 2e6 + 600).failed == "new"


def test_a_partition_keeps_some_as_they_were():
    part = {"partition": 2, "progressDeadlineSeconds": 60}
    begun = plan_rollout((OLD,), wanted(replicas=5, **part), workers("old", 5), NOW)
    for there, stay in ((0, 5), (1, 4), (3, 2)):  # nobody goes before another one can serve
        made = plan_rollout(begun.history, wanted(replicas=5, **part), workers("new", there, track="canary"), NOW)
        assert (made.phase, made.stable, made.stable_replicas, made.canary_replicas) == (
            Phase.PARTITIONED, "old", stay, 3,
        )  # fmt: skip
    three = [*workers("old", 2), *workers("new", 3, track="canary")]
    later = plan_rollout(begun.history, wanted(replicas=5, **part), three, NOW + 1e6)
    assert later.phase is Phase.PARTITIONED  # for as long as one likes
    back = plan_rollout(begun.history, wanted(replicas=5, **part), [broken(track="canary")], NOW + 60)
    assert (back.stable, back.stable_replicas, back.canary_replicas) == ("old", 5, 0)
    on = plan_rollout(later.history, wanted(replicas=5), three, NOW + 1e6)
    assert (on.phase, on.stable, on.stable_replicas, on.canary_replicas) == (Phase.ROLLING, "new", 5, 3)
    for old, new, canaries in ((1, 2, 2), (0, 4, 1), (0, 5, 0)):
        there = [*workers("old", old), *workers("new", new), *workers("new", 3, track="canary")]
        assert plan_rollout(on.history, wanted(replicas=5), there, NOW + 1e6).canary_replicas == canaries


@pytest.mark.parametrize(("limit", "kept"), [(1, ["d", "e"]), (2, ["c", "d", "e"]), (20, ["a", "c", "d", "e"])])
def test_the_history_is_bounded_and_has_what_is_gone_back_to(limit, kept):
    history = tuple(revision(n, i, FAILED if n == "b" else GOOD) for i, n in enumerate("abcde"))
    assert [r.hash for r in pruned(history, limit)] == kept
    other = (*history, revision("f", 9, templates=ROLES))
    assert pruned(other, 1)[-2].hash == "e"
    mixed = (revision("g", 1), revision("h", 2, templates=ROLES), revision("i", 3, PENDING))
    assert [r.hash for r in pruned(mixed, 1)] == ["g", "h", "i"]  # g is what i goes back to


def test_numbers_grow_and_a_revision_that_returns_is_the_latest():
    history = with_target((), "a", TEMPLATES, NOW)
    history = with_target(history, "b", TEMPLATES, NOW)
    assert with_target(history, "b", TEMPLATES, NOW + 9) == history
    assert [(r.hash, r.number) for r in with_target(history, "a", TEMPLATES, NOW)] == [("b", 2), ("a", 3)]


# ------------------------------------------------------------------ over random lives

_EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from("abcd")),
        st.tuples(st.just("scale"), st.integers(0, 4)),
        st.tuples(st.just("part"), st.integers(0, 3)),
        st.tuples(st.just("time"), st.integers(1, 15)),
    ),
    max_size=30,
)


class Cluster:
    """Deployments that replace a worker when another one can be routed to; workers of bad revisions never can."""

    def __init__(self, bad):
        self.bad, self.history, self.now = bad, (), NOW
        self.asked, self.replicas, self.partition = "a", 2, 0
        self.pods = {"stable": [], "canary": []}  # of each track: revision of each worker, those of good ones routable

    def step(self):
        rollout = {"partition": self.partition, "progressDeadlineSeconds": 60}
        there = [
            broken(name, hopeless_at=float("inf"), track=track)
            if name in self.bad
            else Worker(revision=name, track=track, routable=True, routable_since=since)
            for track, pods in self.pods.items()
            for name, since in pods
        ]
        made = plan_rollout(self.history, wanted(self.asked, self.replicas, **rollout), there, self.now)
        again = plan_rollout(made.history, wanted(self.asked, self.replicas, **rollout), there, self.now)
        assert again.history == made.history
        assert again.stable == made.stable
        self.history = made.history
        counts = {"stable": made.stable_replicas, "canary": made.canary_replicas}
        for track, name in (("stable", made.stable), ("canary", made.canary)):
            pods, count = self.pods[track], counts[track]
            new = [p for p in pods if p[0] == name][:count]
            old = [p for p in pods if p[0] not in {name} | self.bad]
            good = 0 if name in self.bad else len(new)
            old = old[: max(0, count - good)]
            if len(new) < count and len(new) + len(old) <= count:
                new.append((name, self.now))
            self.pods[track] = old + new
        return made

    def serving(self):
        return sum(p[0] not in self.bad for pods in self.pods.values() for p in pods)


@settings(max_examples=200, deadline=None)
@given(_EVENTS, st.sets(st.sampled_from("bcd")), st.integers(0, 3))
@example([("ask", "b"), ("scale", 0), ("scale", 1)], {"b"}, 1)
def test_it_ends_serves_throughout_and_never_leaves_a_bad_revision_in_force(events, bad, last):
    cluster = Cluster(bad)
    for _ in range(6):
        cluster.step()
    for event, value in [*events, ("part", last)]:
        if event == "ask":
            cluster.asked = value
        elif event == "scale":
            cluster.replicas = value
        elif event == "part":
            cluster.partition = value
        else:
            cluster.now += value
        for _ in range(3):
            before = cluster.serving()
            cluster.step()
            assert cluster.serving() >= min(before, cluster.replicas)  # no step takes what is needed
    for _ in range(40):
        cluster.now += 15
        before = cluster.serving()
        made = cluster.step()
        assert cluster.serving() >= min(before, cluster.replicas)
    assert [r.number for r in made.history] == sorted({r.number for r in made.history})
    if cluster.replicas:
        assert cluster.serving() == cluster.replicas
        proven = [r.hash for r in made.history if r.state in PROVEN]
        assert proven
        assert made.stable in proven
        assert made.stable not in bad
        if cluster.asked not in bad:
            assert made.failed == ""
        elif cluster.partition < cluster.replicas:
            assert made.failed == cluster.asked  # with more of a partition it has failed only where it came before that
