"""Whether tests that go through very many cases do all of them, or some: `make test-operator` and others
set ARGOSY_WHOLE=1."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

WHOLE = os.environ.get("ARGOSY_WHOLE") == "1"


def places(count: int, name: str) -> Iterator[int]:
    """1 to `count`; or every third, which of them depends on the name, so that together they are everywhere."""
    yield from range(1, count + 1) if WHOLE else range(1 + sum(name.encode()) % 3, count + 1, 3)


def pairs(first: Sequence[Any], second: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Each of the first with each of the second; or with one of them, in turn, so that all come."""
    if WHOLE:
        return [(one, other) for one in first for other in second]
    return [(one, second[i % len(second)]) for i, one in enumerate(first)]
