"""Background tasks that must not end."""

import asyncio

import pytest

from argosy_router import tasks


class PanicError(BaseException):
    """As pyo3's PanicException."""


@pytest.mark.parametrize("fault", [ValueError("x"), PanicError("x"), BaseExceptionGroup("x", [PanicError("y")])])
async def test_a_fault_begins_the_work_anew(monkeypatch, caplog, fault):
    """Whatever its kind: logged, and the work runs again."""
    monkeypatch.setattr(tasks, "AGAIN_S", 0.0)
    runs = []

    async def work():
        runs.append(1)
        if len(runs) < 3:
            raise fault

    await tasks.keep_running("the work", work)
    assert len(runs) == 3
    assert caplog.text.count("the work failed") == 2


async def test_a_cancel_is_a_cancel():
    """It ends the task."""
    task = asyncio.create_task(tasks.keep_running("the work", asyncio.Event().wait))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
