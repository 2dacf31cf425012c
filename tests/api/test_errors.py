"""The error tree maps totally, and back."""

import grpc
import pytest

from argosy_api import errors


def every_error():
    found, todo = [], [errors.ArgosyError]
    while todo:
        kind = todo.pop()
        found.append(kind)
        todo += kind.__subclasses__()
    return [kind for kind in found if kind.__module__ == errors.__name__]  # other parts have kinds of their own


def make(kind):
    return kind("field", "is wrong") if issubclass(kind, errors.InvalidArgumentError) else kind("is wrong")


@pytest.mark.parametrize("kind", every_error(), ids=lambda k: k.__name__)
def test_each_error_has_a_status_for_each_protocol_and_is_in_the_picture(kind):
    error = make(kind)
    assert isinstance(error.grpc_code, grpc.StatusCode)
    assert 400 <= error.http_status < 600
    assert error.reason.isalnum()
    assert error.reason[0].isupper()
    assert "is wrong" in error.message
    assert kind.__name__ in errors.__doc__


@pytest.mark.parametrize("kind", every_error(), ids=lambda k: k.__name__)
def test_a_peers_status_becomes_the_error_it_came_from(kind):
    error = make(kind)
    back = errors.from_status(error.grpc_code, error.message)
    assert back.grpc_code == error.grpc_code
    assert back.message == error.message
    if isinstance(error, errors.InvalidArgumentError):
        assert back.field == "field"


def test_every_grpc_code_becomes_some_error():
    for code in grpc.StatusCode:
        assert isinstance(errors.from_status(code, "why"), errors.ArgosyError)
