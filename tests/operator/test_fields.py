"""Every field of the CRD is seen in a child, at the worker or at the router; every wrong value is refused by its path."""

import pytest
from spec_fields import ANOTHER, FIELDS, SINGLE_VALUED, leaves, seen, sound
from spoiled import spoiled

from argosy_api.errors import InvalidArgumentError
from argosy_api.resource import parse

BAD = list(spoiled())


def test_every_field_has_a_row():
    """Where a field is added to the CRD, say here where its effect is seen."""
    assert [path for path, _ in leaves()] == [path for path, _ in leaves() if path in FIELDS]
    assert set(FIELDS) == {path for path, _ in leaves()}


@pytest.mark.parametrize("path", [path for path, row in FIELDS.items() if row.place])
def test_a_field_is_seen(path):
    row = FIELDS[path]
    wanted, found = row.value if row.seen is None else row.seen, seen(sound(path), row.place)
    before = seen(sound(path, without=True), row.place) if _is_sound_without(path) else None
    if wanted is not ANOTHER:
        assert found == wanted
    assert found != before


def _is_sound_without(path: str) -> bool:
    """What a field needs beside it may need the field."""
    try:
        parse(sound(path, without=True))
    except InvalidArgumentError:
        return False
    return True


@pytest.mark.parametrize("path", [path for path, row in FIELDS.items() if not row.place])
def test_what_decides_is_taken(path):
    """That decisions are others by it: test_plan.py, test_autoscaling.py."""
    assert path.startswith(("autoscaling.", "rollout.")) or path in SINGLE_VALUED
    parse(sound(path))


def test_there_are_enough_ways_to_be_wrong():
    assert len(BAD) > 400


@pytest.mark.parametrize("bad", BAD, ids=[f"{bad.path}-{bad.why}" for bad in BAD])
def test_what_is_wrong_is_refused_by_its_path(bad):
    with pytest.raises(InvalidArgumentError) as refusal:
        parse(bad.document)
    assert bad.path in str(refusal.value)
