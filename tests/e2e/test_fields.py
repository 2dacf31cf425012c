"""The real API server keeps every field, takes the children in which it is seen, and refuses every wrong value.

Nothing is stored: all of it is asked as a dry run, over one connection pool, so it takes seconds.
"""

import asyncio

import pytest
from e2e_dry_runs import DryRuns, dry_runs
from spec_fields import ANOTHER, FIELDS, child, children, look, sound
from spoiled import Spoiled, spoiled


@pytest.fixture
async def server(definition, namespace):
    async with dry_runs(namespace.namespace) as asked:
        yield asked


async def test_every_field_is_kept_and_seen_in_a_child(server):
    """Neither pruned nor replaced; and what is made of it is valid where it is used."""
    wrong = await asyncio.gather(*(_unseen(server, path) for path in FIELDS))
    assert [text for text in wrong if text] == []


async def _unseen(server: DryRuns, path: str) -> str:
    row, document = FIELDS[path], sound(path)
    status, kept = await server.create(document)
    if status != 201:
        return f"{path}: {kept.get('message')}"
    if look(kept["spec"], path.split(".")) != row.value:
        return f"{path}: became {look(kept['spec'], path.split('.'))!r}"
    if not row.place or row.place[0] in ("router", "worker"):
        return ""
    kept["metadata"]["uid"] = "u"
    status, made = await server.apply(child(children(kept), row.place[0]))
    wanted, found = row.value if row.seen is None else row.seen, look(made, list(row.place[1:]))
    if status not in (200, 201):
        return f"{path}: {row.place[0]}: {made.get('message')}"
    return "" if wanted in (found, ANOTHER) else f"{path}: {found!r} in {row.place[0]}"


async def test_every_wrong_value_is_refused_by_its_path(server):
    bad, before = list(spoiled()), await server.count()
    assert len(bad) > 400
    answers = await asyncio.gather(*(server.create(one.document) for one in bad))
    wrong = [_told(one, status, answer) for one, (status, answer) in zip(bad, answers, strict=True)]
    assert [text for text in wrong if text] == []
    assert await server.count() == before


def _told(one: Spoiled, status: int, answer: dict) -> str:
    message = answer.get("message", "")
    if status in (400, 422) and one.path in message:
        return ""
    return f"{one.path} ({one.why}): {status} {message[:200]}"
