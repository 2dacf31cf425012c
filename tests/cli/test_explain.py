"""`argosy explain`: what it asks a router, and what it says where there is nothing to be had."""

import json

import pytest

from argosy_api.net import PageServer
from argosy_cli.explain import ExplainError, asked

CHOICES = [{"request_id": "a/b", "attempts": []}]


@pytest.fixture
def router():
    seen = []

    def page(path):
        seen.append(path)
        if path == "/fleet/requests/a%2Fb":
            return 200, "application/json", json.dumps(CHOICES).encode()
        if path == "/fleet/requests/secret":
            return 401, "application/json", b'{"error": {"message": "needs a credential"}}'
        return 404, "application/json", b'{"error": {"message": "knows no such request"}}'

    server = PageServer("127.0.0.1", 0, page)
    yield f"127.0.0.1:{server.port}"
    server.close()


def test_the_router_is_asked_by_the_requests_id(router):
    for url in (router, f"http://{router}/v1"):
        assert asked("a/b", url) == CHOICES


def test_who_cannot_explain_says_why(router, monkeypatch):
    monkeypatch.delenv("ARGOSY_API_KEY", raising=False)
    with pytest.raises(ExplainError, match="knows no such request"):
        asked("other", router)
    with pytest.raises(ExplainError, match=r"needs a credential \(set ARGOSY_API_KEY\)"):
        asked("secret", router)
    with pytest.raises(ExplainError, match="no router answers at http://127"):
        asked("r", "127.0.0.1:9")
