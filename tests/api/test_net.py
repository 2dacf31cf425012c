"""Addresses, listening sockets of both families, and the small HTTP server."""

import socket
import urllib.error
import urllib.request

import pytest

from argosy_api import net


@pytest.fixture(params=["127.0.0.1", "::1"])
def loopback(request, has_ipv6):
    if request.param == "::1" and not has_ipv6:
        pytest.skip("no IPv6 here")
    return request.param


@pytest.fixture
def pages():
    """Starts a server of pages; its path is its answer."""
    made = []

    def start(host, port=0):
        made.append(net.PageServer(host, port, lambda path: (200, "text/plain", path.encode())))
        return made[-1]

    yield start
    for server in made:
        server.close()


def get(host, port, path="/x"):
    with urllib.request.urlopen(f"http://{net.address(host, port)}{path}", timeout=10) as answer:
        return answer.read().decode()


def test_everywhere_is_both_families(pages, loopback):
    assert get(loopback, pages(net.EVERYWHERE).port, "/a?b=1") == "/a"


def test_one_address_is_one_address(pages, loopback):
    assert get(loopback, pages(loopback).port) == "/x"


def test_a_machine_without_ipv6_listens_on_ipv4(pages, monkeypatch):
    create = socket.create_server

    def without(where, *, family=socket.AF_INET, **more):
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return create(where, family=family, **more)

    monkeypatch.setattr(socket, "create_server", without)
    assert get("127.0.0.1", pages(net.EVERYWHERE).port) == "/x"


@pytest.mark.parametrize("host", ["127.0.0.1", net.EVERYWHERE])
def test_a_taken_port_is_said_to_be_taken(pages, host):
    taken = pages("127.0.0.1").port
    with pytest.raises(OSError, match="in use"):
        pages(host, taken)
    assert "in use" in net.why_not(host, taken)


def test_an_address_of_another_machine_is_not_called_a_taken_port():
    why = net.why_not("192.0.2.1", 0)  # of a range that is for documentation
    assert "in use" not in why
    assert why


def test_where_one_can_listen_there_is_no_reason_against_it():
    assert net.why_not("127.0.0.1", 0) == ""


@pytest.mark.parametrize(
    ("host", "text"),
    [("10.0.0.1", "10.0.0.1:9"), ("fd00::1", "[fd00::1]:9"), ("::", "[::]:9"), ("m.ns.svc", "m.ns.svc:9")],
)
def test_an_ipv6_address_stands_in_brackets(host, text):
    assert net.address(host, 9) == text


def test_a_closed_server_frees_its_port(pages):
    server = net.PageServer("127.0.0.1", 0, lambda _: (200, "text/plain", b""))
    server.close()
    with pytest.raises(urllib.error.URLError):
        get("127.0.0.1", server.port)
    assert pages("127.0.0.1", server.port).port == server.port
