"""The page's files and what they ask for: who may, what is told, and that other sites' pages can do nothing."""

import json
import re
from importlib.resources import files

import grpc
import pytest
from access_kit import Access, bearer
from hypothesis import given
from hypothesis import strategies as st
from router_kit import FakeWorker
from waiting import eventually

from argosy_api.orders import take
from argosy_cli import explain
from argosy_router.page import files as page_files
from argosy_router.page import origin
from argosy_router.routing.dispatch import Decision
from argosy_router.tries import MOST, Try, add

STATIC = files("argosy_router.page").joinpath("static")
MAX_BYTES = 300_000


async def get(rig, path, **more):
    async with rig.http.get(rig.base + path, **more) as answer:
        return answer, await answer.read()


def test_the_page_is_small_and_asks_no_other_host():
    texts = {path.name: path.read_text() for path in STATIC.iterdir()}
    assert sum(len(text.encode()) for text in texts.values()) <= MAX_BYTES
    for name, text in texts.items():
        assert "https://" not in text, name
        assert text.replace("http://www.w3.org/2000/svg", "").count("http://") == 0, name
    for forbidden in ("<style", "style=", "onclick=", "innerHTML"):  # what the policy would stop anyway
        assert not any(forbidden in text for text in texts.values()), forbidden


def test_pages_share_what_is_around_them():
    """Each has its own title and script; nothing is left to be filled in."""
    pages = {name: file.body.decode() for name, file in page_files.load().items() if name.endswith(".html")}
    assert pages.keys() == {"index.html", "docs.html"}
    own = {name: (re.search(r"<title>(.*)</title>", text)[1], re.findall(r'src="/page/(\w+.js)"', text))
           for name, text in pages.items()}  # fmt: skip
    assert own == {"index.html": ("Argosy", ["app.js"]), "docs.html": ("API - Argosy", ["docs.js"])}
    for text in pages.values():
        assert re.findall(r"\{\w+\}|<!--", text) == []
        assert text.count("<main") == text.count("</main>") == text.count("<noscript>") == text.count("<dialog") == 1


async def test_files_come_with_a_strict_policy_and_without_a_credential(make_rig, tmp_path):
    rig = await make_rig(**Access(tmp_path, required=True).settings)
    for path, kind in (
        ("/", "text/html"),
        ("/docs", "text/html"),
        ("/page/app.js", "text/javascript"),
        ("/page/style.css", "text/css"),
    ):
        answer, body = await get(rig, path)
        assert (answer.status, answer.content_type) == (200, kind)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        again, nothing = await get(rig, path, headers={"if-none-match": answer.headers["etag"]})
        assert (again.status, nothing) == (304, b"")
        assert body
    for path in ("/page/none.js", "/page/../settings.py", "/page/%2e%2e%2fsettings.py", "/page/__init__.py"):
        assert (await get(rig, path))[0].status in {401, 404}
    here = json.loads((await get(rig, "/page/here.json"))[1])
    assert here == {"grpc_port": rig.router.grpc_port}


async def test_the_fleet_is_for_admins_where_credentials_are_asked_for(make_rig, tmp_path):
    access = Access(tmp_path, required=True)
    keys = {name: access.key(name, admin=name == "root") for name in ("root", "a")}
    rig = await make_rig(decision_headers=False, orders=str(tmp_path / "orders"), **access.settings)
    await rig.add(FakeWorker(worker_id="w0"))
    for headers, status in (({}, 401), (bearer(keys["a"]), 401), (bearer(keys["root"]), 200)):
        answer, _ = await get(rig, "/fleet", headers=headers)
        assert answer.status == status
    own = {"content-type": "application/json"}
    for headers, status in ((own, 401), (own | bearer(keys["a"]), 401), (own | bearer(keys["root"]), 202)):
        answer, _ = await rig.post("/fleet/kill", json={"worker": "w0"}, headers=headers)
        assert answer.status == status
    assert [order.kill for order in take(tmp_path / "orders")] == ["w0"]


async def test_without_credentials_it_is_for_everybody_only_where_decisions_are_told(make_rig):
    rig = await make_rig(decision_headers=False)
    assert (await get(rig, "/fleet"))[0].status == 401


async def test_it_tells_where_the_last_requests_went_and_why(rig):
    answer, body = await rig.post("/v1/completions", {"model": "m", "prompt": "hello there", "max_tokens": 5})
    assert answer.status == 200
    refused, _ = await rig.post("/v1/completions", {"model": "m", "prompt": "x", "max_tokens": -1})
    assert refused.status == 400
    told = json.loads((await get(rig, "/fleet"))[1])
    (one,) = told["recent"]
    assert one["request_id"] == answer.headers["x-request-id"]
    assert one["workers"] == [answer.headers["x-argosy-worker"]]
    assert one["why"] == answer.headers["x-argosy-decision"]
    usage = json.loads(body)["usage"]
    assert (one["prompt_tokens"], one["tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert (one["model"], one["outcome"], one["first_token_s"] is not None) == ("m", "done", True)
    assert "hello" not in json.dumps(told)  # nothing of what was asked
    assert {w["worker_id"] for w in told["deployments"][0]["workers"]} == {"w0", "w1"}
    assert told["kill"] is False
    assert (await rig.post("/fleet/kill", json={"worker": "w0"}))[0].status == 404


@pytest.mark.parametrize("how", ["die_after", "close_after"])
async def test_a_stream_that_went_on_elsewhere_names_both_workers(make_rig, how):
    rig = await make_rig()
    workers = FakeWorker(worker_id="w0"), FakeWorker(worker_id="w1")
    script = workers[1].script = workers[0].script
    script.faults_left = 1
    setattr(script, how, 3)
    await rig.add(*workers)
    answer, _ = await rig.post("/v1/completions", {"model": "m", "prompt": "hello", "max_tokens": 9})
    assert answer.status == 200
    (one,) = json.loads((await get(rig, "/fleet"))[1])["recent"]
    assert sorted(one["workers"]) == ["w0", "w1"]
    assert (one["tokens"], one["outcome"]) == (9, "done")


async def test_a_client_that_goes_away_is_told_as_cancelled(rig):
    for worker in rig.workers:
        worker.script.step_s = 0.05
    async with rig.http.post(
        rig.base + "/v1/completions", json={"model": "m", "prompt": "hello", "max_tokens": 500, "stream": True}
    ) as answer:
        await answer.content.readany()

    async def ended():
        (one,) = json.loads((await get(rig, "/fleet"))[1])["recent"]
        return one["outcome"] == "CANCELLED"

    await eventually(ended)


async def test_only_the_own_page_kills_a_worker(make_rig, tmp_path):
    rig = await make_rig(orders=str(tmp_path / "orders"))
    await rig.add(FakeWorker(worker_id="w0"))
    port = rig.router.http_port
    body = json.dumps({"worker": "w0"})
    good = {"content-type": "application/json", "origin": rig.base, "sec-fetch-site": "same-origin"}
    for wrong in (
        {"origin": "http://evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"content-type": "text/plain"},
        {"host": f"evil.example:{port}", "origin": f"http://evil.example:{port}"},
    ):
        answer, _ = await rig.post("/fleet/kill", data=body, headers=good | wrong)
        assert answer.status == 400, wrong
    for text, status in (("{}", 400), ('{"worker": 7}', 400), ("[", 400), ('{"worker": "w9"}', 404), ("x" * 2000, 413)):
        assert (await rig.post("/fleet/kill", data=text, headers=good))[0].status == status
    assert take(tmp_path / "orders") == []
    assert (await rig.post("/fleet/kill", data=body, headers=good))[0].status == 202
    assert [order.kill for order in take(tmp_path / "orders")] == ["w0"]


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "[::1]:8000", "10.0.0.7", "localhost"])
def test_own_hosts(host):
    assert origin.is_own({"host": host, "origin": f"http://{host}", "content-type": "application/json; charset=utf-8"})
    assert not origin.is_own({"host": host, "origin": "null", "content-type": "application/json"})


@given(st.text(max_size=60))
def test_no_name_that_somebody_can_have_resolved_is_ours(host):
    headers = {"host": host, "content-type": "application/json"}
    if origin.is_own(headers):
        name = host.rpartition("@")[2].partition("]")[0].lstrip("[").partition("%")[0]
        assert name.lower().startswith("localhost") or not any(c.isalpha() and c not in "abcdefABCDEF" for c in name)


async def test_each_request_is_one_line_of_the_log_without_what_was_asked(rig, caplog):
    caplog.set_level("INFO", "argosy_router.requests")
    body = {"model": "m", "prompt": ["a secret", "another secret"], "max_tokens": 5}
    answer, _ = await rig.post("/v1/completions", body, headers={"x-request-id": "mine"})
    assert answer.status == 200
    assert (await rig.post("/v1/completions", {"model": "none", "prompt": "a secret"}))[0].status == 404
    assert (await rig.post("/v1/completions", {"model": "m", "prompt": "a secret", "top_p": 7}))[0].status == 400

    def lines():
        return [r.getMessage() for r in caplog.records if r.name == "argosy_router.requests"]

    await eventually(lambda: len(lines()) == 3)
    first, second, third = lines()
    assert first.startswith("http m OK ")
    assert " prompt tokens (" in first
    assert ", 10 generated, first after " in first
    assert any(w in first for w in ("w0", "w1"))
    assert first.endswith("; id 'mine'")
    assert " NOT_FOUND " in second
    assert " INVALID_ARGUMENT " in third
    assert "secret" not in caplog.text


async def test_a_line_can_forge_no_other(rig, caplog):
    """A client names its requests as it likes."""
    from argosy_router.recent import Line, Passing

    one = Passing(number=1, request_id="a\nhttp m OK", model="m", tenant="", at=0.0, prompt_tokens=3)
    line = str(Line("http", "m", "OK", 1.0, [one]))
    assert "\n" not in line
    assert str(Line("grpc", "m", "CANCELLED", 0.5, [])) == "grpc m CANCELLED 0.500 s"


async def test_a_request_is_explained_to_admins_only(make_rig, tmp_path):
    access = Access(tmp_path, required=True)
    keys = {name: access.key(name, admin=name == "root") for name in ("root", "a")}
    rig = await make_rig(decision_headers=False, **access.settings)
    await rig.add(FakeWorker(worker_id="w0"))
    asked = {"model": "m", "prompt": "hello", "max_tokens": 2}
    answer, _ = await rig.post("/v1/completions", json=asked, headers=bearer(keys["a"]))
    path = f"/fleet/requests/{answer.headers['x-request-id']}"
    for headers, status in (({}, 401), (bearer(keys["a"]), 401), (bearer(keys["root"]), 200)):
        assert (await get(rig, path, headers=headers))[0].status == status
    assert (await get(rig, "/fleet/requests/nobody", headers=bearer(keys["root"])))[0].status == 404


async def test_it_is_told_who_was_considered_and_who_was_lost(rig):
    """Both attempts of a request whose first worker fails, with the prices of those that could have had each."""
    await rig.until_indexed()  # else nobody is priced
    bad, good = rig.workers
    bad.script.fail_first = grpc.StatusCode.UNAVAILABLE
    for i in range(100):  # which one is tried first is not certain
        answer, _ = await rig.post("/v1/completions", {"model": "m", "prompt": f"hi {i}", "max_tokens": 3, "n": 1})
        if bad.requests:
            break
    _, body = await get(rig, f"/fleet/requests/{answer.headers['x-request-id']}")
    (choice,) = json.loads(body)
    assert (choice["outcome"], choice["tokens"]) == ("done", 3)
    first, second = choice["attempts"]
    assert (first["worker"], first["lost"]) == (bad.worker_id, "unavailable")
    assert (second["worker"], second["lost"]) == (good.worker_id, "")
    assert [first["candidates"], second["candidates"]] == [2, 1]
    assert {c["worker"] for c in first["considered"]} == {bad.worker_id, good.worker_id}
    assert 0 <= first["after_s"] <= second["after_s"] <= choice["first_token_s"] <= choice["seconds"]
    for attempt in (first, second):
        chosen = next(c for c in attempt["considered"] if c["worker"] == attempt["worker"])
        terms = [chosen[f"{name}_s"] for name in ("ahead", "own", "behind", "decode", "pressure")]
        assert chosen["cost_s"] == attempt["cost_s"] == sum(terms)
    lines = "\n".join(explain.lines([choice]))
    assert "attempt 1, after" in lines
    assert "lost: unavailable" in lines


def test_what_is_remembered_of_attempts_is_bounded():
    tries = []
    for i in range(3 * MOST):
        decision = Decision(worker=f"w{i}", cached=0, policy="kvAware", reason="only", cost_s=0.0)
        add(tries, Try(decision=decision, at=float(i), tokens=i))
    assert [t.decision.worker for t in tries] == ["w0", *(f"w{i}" for i in range(2 * MOST + 1, 3 * MOST))]
