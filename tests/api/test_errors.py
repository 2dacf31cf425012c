"""The error tree maps totally, and back."""

import asyncio
import subprocess
import sys

import grpc
import pytest

from argosy_api import errors
from argosy_api.grpc_status import code_of, error_of, errors_to_status


def make(kind):
    return kind("field", "is wrong") if issubclass(kind, errors.InvalidArgumentError) else kind("is wrong")


@pytest.mark.parametrize("kind", list(errors.every_error()), ids=lambda k: k.__name__)
def test_each_error_has_a_status_for_each_protocol_and_is_in_the_picture(kind):
    error = make(kind)
    assert isinstance(code_of(error), grpc.StatusCode)
    assert 400 <= error.http_status < 600
    assert error.reason.isalnum()
    assert error.reason[0].isupper()
    assert "is wrong" in error.message
    assert kind.__name__ in errors.__doc__


@pytest.mark.parametrize("kind", list(errors.every_error()), ids=lambda k: k.__name__)
def test_a_peers_status_becomes_the_error_it_came_from(kind):
    error = make(kind)
    back = error_of(code_of(error), error.message)
    assert back.status == error.status
    assert back.message == error.message
    if isinstance(error, errors.InvalidArgumentError):
        assert back.field == "field"


def test_every_grpc_code_becomes_some_error():
    for code in grpc.StatusCode:
        assert isinstance(error_of(code, "why"), errors.ArgosyError)


class _Context:
    """The part of a call's context that tells the status."""

    told = None

    async def abort(self, code, message, trailing=()):
        self.told = (code, message, trailing)
        raise grpc.aio.AbortError

    def add_done_callback(self, callback):
        self.at_end = callback


async def _told(error):
    context = _Context()
    with pytest.raises(grpc.aio.AbortError):
        async with errors_to_status(context):
            raise error
    return context.told


@pytest.mark.parametrize("seconds", [0.25, 1.0, 17.5])
async def test_when_to_try_again_reaches_the_peer(seconds):
    code, message, trailing = await _told(errors.OverloadedError("full", retry_after_s=seconds))
    back = error_of(code, message, trailing)
    assert (type(back), back.message, back.retry_after_s) == (errors.OverloadedError, "full", seconds)


@pytest.mark.parametrize("value", ["", "-5", "soon", "1.5", "9" * 999, b"1"])
def test_nonsense_about_when_to_try_again_is_bounded(value):
    back = error_of(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", [("other", "x"), ("retry-after-ms", value)])
    assert 0 < back.retry_after_s <= 3600


class Panic(BaseException):
    """As the panics of libraries in Rust are."""


@pytest.mark.parametrize("kind", [ValueError, Panic])
async def test_what_is_not_ours_is_told_without_its_text(kind):
    code, message, _ = await _told(kind("/home/secret"))
    assert code is grpc.StatusCode.INTERNAL
    assert "secret" not in message


@pytest.mark.parametrize("kind", [asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit])
async def test_what_ends_a_task_or_the_process_goes_on_its_way(kind):
    context = _Context()
    with pytest.raises(kind):
        async with errors_to_status(context):
            raise kind
    assert context.told is None


def test_the_error_tree_needs_no_grpc():
    code = (
        "import sys, argosy_api.errors, argosy_api.params, argosy_worker.core.scheduler; print('grpc' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
