"""Fixtures of the operator's tests. Helper modules are imported from here, so that tests need no package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest
import pytest_asyncio
from operator_kit import World


@pytest_asyncio.fixture
async def world():
    """A fake cluster; the test starts operators on it."""
    async with World().serving() as made:
        yield made


@pytest.fixture
def document():
    """A function that returns a resource as a user writes it."""
    from operator_kit import document as make

    return make
