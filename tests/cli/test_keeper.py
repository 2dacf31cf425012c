"""How long a process that ended is left alone."""

from argosy_cli.embedded.keeper import HEALTHY_S, Kind, in_a_row


def test_a_crash_is_tried_again_at_once_and_a_model_that_cannot_load_later():
    assert (Kind.CRASH.value.delay(1), Kind.MODEL.value.delay(1)) == (0.2, 10.0)
    assert (Kind.CRASH.value.delay(99), Kind.MODEL.value.delay(99)) == (30.0, 300.0)


def test_a_healthy_minute_makes_failures_forgotten():
    assert in_a_row(9, HEALTHY_S) == 1
    assert in_a_row(9, HEALTHY_S - 1) == 10
