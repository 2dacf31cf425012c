"""Fixtures of the operator's tests. Helper modules are imported from here, so that tests need no package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest
import pytest_asyncio
from aiohttp import web
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


@pytest_asyncio.fixture
async def serve():
    """A function that answers JSON at any path of a port, and returns the port."""
    runners = []

    async def start(answer) -> int:
        async def handle(request):
            found = answer(request.path)
            return web.Response(status=404) if found is None else web.json_response(found)

        app = web.Application()
        app.router.add_get("/{tail:.*}", handle)
        runner = web.AppRunner(app)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner.addresses[0][1]

    yield start
    for runner in runners:
        await runner.cleanup()
