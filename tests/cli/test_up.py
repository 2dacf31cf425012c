"""`argosy up` with simulated models: started, broken in many ways, and ended."""

import contextlib
import http.client
import os
import re
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import vllm_dashboard
from embedded_kit import Up
from waiting import LIMIT_S, until

from argosy_api.params import SamplingParams
from argosy_cli.embedded.keeper import Kind
from argosy_cli.errors import NothingServesError, StartError
from argosy_cli.up import reason as why_ended
from argosy_worker.sim import oracle

HEAD = "apiVersion: serving.argosy.dev/v1alpha1\nkind: InferenceDeployment\n"
PREFIX = "All hands on deck: this prompt is long enough to fill several blocks of sixteen tokens. "


def sim(name="sim", replicas=2, uri="sim://m?prefill_tps=20000&decode_ms=2", **spec):
    extra = "".join(f"  {key}: {value}\n" for key, value in spec.items())
    return f"{HEAD}metadata:\n  name: {name}\nspec:\n  model:\n    uri: {uri}\n  replicas: {replicas}\n{extra}"


def test_what_is_told_of_all_that_ended_a_run_at_once():
    nothing, full, bug = NothingServesError("nothing"), OSError(28, "No space left on device"), KeyError("a fault")
    assert why_ended(nothing) is nothing
    assert why_ended(ExceptionGroup("", [full, ExceptionGroup("", [bug, nothing])])) is nothing
    assert "No space left on device" in str(why_ended(ExceptionGroup("", [full, full])))
    assert isinstance(why_ended(full), StartError)
    faults = ExceptionGroup("", [full, bug])
    assert why_ended(faults) is faults


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """Two resources side by side, for all tests that leave it as it was."""
    home = tmp_path_factory.mktemp("up")
    path = home / "two.yaml"
    path.write_text(sim() + "---\n" + sim("other", 1, routing="{policy: roundRobin}"))
    one = Up(home, [path]).start()
    try:
        one.until_ready()
        yield one
        ended = one.end()
        assert ended == 0, one.output
    finally:
        one.clean_up()


def test_both_families_are_listened_on(up, has_ipv6):
    one = up(sim(replicas=1), options=["--host=::"]).until_ready()
    for port in (one.http_port, one.grpc_port, one.metrics_port):
        for host in ("127.0.0.1", "::1") if has_ipv6 else ("127.0.0.1",):
            socket.create_connection((host, port), timeout=LIMIT_S).close()
    assert one.complete("sim", PREFIX).status == 200
    assert one.end() == 0, one.output


def test_vllms_dashboards_find_all_their_series_in_one_place(running):
    for _ in range(2):
        for model in ("sim", "other"):
            assert running.complete(model, PREFIX + PREFIX, max_tokens=4).status == 200
    families = {}

    def complete():
        """All three workers are in the page, and have counted what was asked of them."""
        families.update(vllm_dashboard.scraped(running.text("/metrics")))
        ended = sum(sample.value for sample in families.get("vllm:request_success", []))
        return ended >= 4 and len(families["vllm:kv_cache_usage_perc"]) == 3

    until(complete, "the workers' series")
    for name, plausible in vllm_dashboard.FACTS.items():
        values = [sample.value for sample in vllm_dashboard.of(families, name)]
        assert values, name
        assert plausible(values), (name, values)
    assert {s.labels["block_size"] for s in families["vllm:cache_config_info"]} == {"16"}
    assert {s.labels["handler"] for s in families["http_requests"]} >= {"/v1/completions"}
    assert len({s.labels.get("worker") for s in families["process_resident_memory_bytes"]}) == 4  # the router's too


def test_it_says_where_to_ask_and_how(running):
    until(lambda: "Try it:" in running.output)
    assert f"http://127.0.0.1:{running.http_port}/v1" in running.output
    assert f"127.0.0.1:{running.grpc_port}" in running.output
    assert f"http://127.0.0.1:{running.metrics_port}/metrics" in running.output
    assert "sim: 2 of 2 replicas ready" in running.output


def test_several_resources_are_served_side_by_side(running):
    models = {m["id"] for m in running.request("/v1/models").body["data"]}
    assert models == {"sim", "other"}
    workers = {name: running.complete(name, "hello").worker for name in models}
    assert workers["sim"] in {r.name for r in running.replicas("sim")}
    assert workers["other"] == running.replicas("other")[0].name
    assert running.complete("nobody", "hello").status == 404


def test_a_prefix_is_found_again_where_it_is(running):
    # as long as must be for it to outweigh what the first worker may still seem to have to do
    first = running.complete("sim", PREFIX * 40 + "one")
    second = running.complete("sim", PREFIX * 40 + "two")
    assert second.worker == first.worker
    assert second.cached_tokens >= 64


def test_prompts_and_answers_come_from_workers_of_two_roles(up):
    """The answer is that of one worker alone; with the prefill worker gone the other computes, and it is the same."""
    roles = "{prefill: {replicas: 1}, decode: {replicas: 1}}"
    one = up(sim(replicas=1, uri="sim://m?prefill_tps=2000&decode_ms=1&check=1", disaggregation=roles)).until_ready()
    prefill, decode = one.replicas()
    assert (prefill.name[:11], decode.name[:10]) == ("sim-prefill", "sim-decode")
    until(lambda: "indexStale" not in one.complete("sim", "Hello").headers["x-argosy-decision"])

    def ask(number):
        prompt = f"{number} {PREFIX * 10}"
        reply = one.complete("sim", prompt, max_tokens=20)
        expected = oracle(list(prompt.encode()), 20, SamplingParams(max_tokens=20, temperature=0))
        assert (reply.status, reply.text, reply.worker) == (200, bytes(expected).decode(), decode.name)
        return reply, len(prompt)

    reply, length = ask(1)
    assert reply.cached_tokens == (length - 1) // 16 * 16
    assert reply.headers["x-argosy-decision"].endswith(f"source={prefill.name}")
    psutil.Process(prefill.pid).kill()
    ask(2)
    assert one.end() == 0, one.output


def test_workers_come_with_the_requests_and_go_when_nobody_asks(up):
    """From no process to two, with every request held until there is one, and back to none."""
    rules = (
        "{minReplicas: 0, maxReplicas: 2, scaleToZero: {idleSeconds: 10},"
        " metrics: [{type: running, target: 8}], scaleDown: {stabilizationSeconds: 0}}"
    )
    one = up(sim(replicas=1, uri="sim://m?decode_ms=30", autoscaling=rules)).until_ready()
    assert one.replicas() == []
    until(lambda: one.request("/v1/models").body["data"])
    answers = []

    def ask():
        reply = one.complete("sim", "Hello", max_tokens=100)
        answers.append(reply.status)

    asking = [threading.Thread(target=ask) for _ in range(40)]
    for thread in asking:
        thread.start()
    most = until(lambda: len(one.replicas()) == 2, "two workers")
    for thread in asking:
        thread.join()
    assert most
    assert answers == [200] * 40
    until(lambda: one.replicas() == [], "no worker")
    assert one.complete("sim", "Hello").status == 200
    assert one.end() == 0, one.output


def test_status_shows_it(running):
    code, out, _ = running.command("status")
    assert code == 0
    assert "sim: 2 of 2 replicas ready" in out
    assert "other: 1 of 1 replicas ready" in out
    for replica in running.replicas():
        assert replica.name in out
    assert f"http://127.0.0.1:{running.http_port}/v1" in out


def test_generate_streams_and_reports(running):
    code, out, err = running.command("generate", "--raw", "--model", "sim", PREFIX, "--max-tokens", "8")
    assert (code, out) == (0, running.complete("sim", PREFIX, max_tokens=8).text + "\n")
    assert "8 generated" in err
    assert any(replica.name in err for replica in running.replicas("sim"))


def test_generate_finds_the_router_but_cannot_guess_between_two_models(running):
    code, out, err = running.command("generate", "hello")
    assert (code, out) == (5, "")
    assert err == "error: several models are served; choose one with --model: other, sim\n"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--model", "nobody"], 5, "NOT_FOUND: .*nobody"),
        (["--model", "sim", "--temperature", "-1"], 1, "temperature: is -1.0"),
        (["--model", "sim", "--max-tokens", "0"], 1, "max_tokens: is 0"),
        (["--model", "sim", "--max-tokens", "many"], 2, "max-tokens"),
        (["--model", "sim", "--address", "127.0.0.1:1"], 5, "no router answers at 127.0.0.1:1"),
    ],
)
def test_what_generate_cannot_do_is_one_line(running, arguments, code, says):
    got, out, err = running.command("generate", "hello", *arguments)
    assert (got, out) == (code, "")
    assert "Traceback" not in err
    assert re.search(says, err), err


def test_an_empty_question_is_not_asked(running):
    code, out, err = running.command("generate", " ", "--model", "sim")
    assert (code, out) == (1, "")
    assert err == "error: PROMPT is empty: there is nothing to ask\n"


def test_chat_keeps_the_conversation(running):
    code, out, err = running.command("chat", "--model", "other", "--max-tokens", "4", stdin="first\n\nsecond\n")
    assert code == 0
    figures = [line for line in err.splitlines() if "prompt tokens" in line]
    prompts = [int(line.split()[0]) for line in figures]
    assert len(figures) == 2  # the empty line is no question
    assert prompts[1] > prompts[0] + len("second")
    assert len(out.splitlines()) >= 2


def test_a_killed_worker_is_replaced_and_asked_again(running):
    victim = running.replicas("sim")[0]
    os.kill(victim.pid, signal.SIGKILL)
    until(lambda: running.replicas("sim")[0].restarts == victim.restarts + 1)
    assert running.complete("sim", "while it is away").status == 200
    until(running.all_ready)
    new = running.replicas("sim")[0]
    assert (new.name, new.pid != victim.pid, new.address != victim.address) == (victim.name, True, True)
    with ThreadPoolExecutor(8) as clients:  # at once: one alone may find the same idle worker each time

        def asked():
            return {reply.worker for reply in clients.map(lambda i: running.complete("sim", f"{i} apart"), range(8))}

        until(lambda: asked() == {r.name for r in running.replicas("sim")})


def test_killed_valkey_comes_back_on_its_port_and_no_request_fails(running):
    before = running.service("valkey")
    os.kill(before.pid, signal.SIGKILL)
    assert running.complete("sim", "while it is away").status == 200
    until(lambda: running.service("valkey").restarts == before.restarts + 1 and running.all_ready())
    after = running.service("valkey")
    assert (after.address, after.pid != before.pid) == (before.address, True)
    assert running.complete("sim", "when it is back").status == 200


def test_a_killed_router_comes_back_on_its_ports(running):
    before = running.service("router")
    os.kill(before.pid, signal.SIGKILL)
    until(lambda: running.service("router").restarts == before.restarts + 1 and running.all_ready())
    until(lambda: running.complete("sim", "again").status == 200)
    after = running.service("router")
    assert (after.address, after.pid != before.pid) == (before.address, True)


def test_a_stopped_worker_gets_no_requests_until_it_goes_on(running):
    victim = running.replicas("sim")[1]
    os.kill(victim.pid, signal.SIGSTOP)
    try:
        until(lambda: running.replicas("sim")[1].phase == "NotReady")
        assert {running.complete("sim", f"{i} meanwhile").worker for i in range(4)} == {running.replicas("sim")[0].name}
    finally:
        os.kill(victim.pid, signal.SIGCONT)
    until(running.all_ready)
    assert running.replicas("sim")[1].pid == victim.pid


def test_valkey_wants_a_password_that_no_command_line_shows(running):
    port = running.state.redis_port
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"KEYS *\r\n")
        assert connection.recv(100).startswith(b"-NOAUTH")
    for child in running.children():
        assert "redis://" not in " ".join(child.cmdline())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_end_leaves_nothing_and_lets_requests_finish(up, number):
    one = up(sim(uri="sim://m?decode_ms=20", replicas=1)).until_ready()
    children = one.children()
    assert len(children) >= 3  # Valkey, the router (with a child for each model) and the worker
    replies = []
    asked = threading.Thread(target=lambda: replies.append(one.complete("sim", "a long answer", max_tokens=60)))
    asked.start()
    until(lambda: _busy(one))
    assert one.end(number) == 0
    asked.join()
    assert (replies[0].status, replies[0].body["usage"]["completion_tokens"]) == (200, 60)
    until(lambda: not _alive(children))
    assert one.state is None
    assert one.command("status")[0] == 1
    assert one.output.splitlines()[-1] == "Ended."


def test_what_takes_longer_than_the_drain_is_aborted(up):
    one = up(sim(uri="sim://m?decode_ms=100", replicas=1, drain="{timeoutSeconds: 1}")).until_ready()
    children = one.children()
    ended = []
    asked = threading.Thread(
        target=lambda: ended.append(_try(lambda: one.complete("sim", "a long answer", max_tokens=600)))
    )
    asked.start()
    until(lambda: _busy(one))
    assert one.end() == 0
    asked.join()
    reply = ended[0]  # 60 s of answer, if it had been waited for
    assert reply is None or reply.status == 503 or reply.body["choices"][0]["finish_reason"] != "length"
    until(lambda: not _alive(children))


def test_a_second_interrupt_ends_at_once(up):
    one = up(sim(uri="sim://m?decode_ms=100", replicas=1)).until_ready()
    children = one.children()
    ended = []
    asked = threading.Thread(
        target=lambda: ended.append(_try(lambda: one.complete("sim", "a very long answer", max_tokens=600)))
    )
    asked.start()
    until(lambda: _busy(one))
    one.process.send_signal(signal.SIGINT)
    until(lambda: "Ending" in one.output)
    one.end(signal.SIGINT)
    asked.join()
    assert ended[0] is None or ended[0].status != 200  # 30 s of drain would have given half of it
    until(lambda: not _alive(children))


def test_nothing_outlives_a_supervisor_that_was_killed(up):
    one = up(sim(replicas=1)).until_ready()
    children = one.children()
    assert _alive(children)
    one.end(signal.SIGKILL)
    until(lambda: not _alive(children))


def test_a_taken_port_is_said_before_anything_starts(up):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        one = up(sim(), options=[f"--metrics-port={port}"])
        assert one.process.wait(LIMIT_S) == 3
    assert one.output == (
        f"error: port {port} on 127.0.0.1 is taken by another program; end it, or choose another port with --metrics-port\n"
    )


def test_a_wrong_resource_is_said_before_anything_starts(up):
    one = up(sim(), sim("b", replicas=-1))
    assert one.process.wait(LIMIT_S) == 2
    assert "resource1.yaml, line 8: spec.replicas: " in one.output
    assert len(one.output.splitlines()) == 1


def test_a_model_that_cannot_be_loaded_says_why_and_does_not_loop(up, tmp_path):
    corrupt = tmp_path / "corrupt.gguf"
    corrupt.write_bytes(b"GGUF\x03\x00\x00\x00 and nothing that makes sense")
    one = up(
        sim("bad", 1, f"file://{corrupt}")
        + "---\n"
        + sim("absent", 1, "file:///no/such.gguf")
        + "---\n"
        + sim("good", 1)
    )
    until(lambda: one.state and one.state.resources[2].ready == 1)
    # each is tried again after 10 s, which a slow machine needs for less than all of this: so nothing here is a
    # matter of one moment
    for index, reason in ((0, "ModelInvalid"), (1, "ModelNotFound")):
        failed = until(lambda index=index: _failed(one, index))
        assert failed.reason == reason
        assert failed.message != ""
        assert failed.retry_s == Kind.MODEL.value.delay(failed.restarts)  # it does not loop
        until(lambda reason=reason: f"ModelLoaded=False {reason}: " in one.output)
        until(lambda reason=reason: reason in one.command("status")[1])
    refused = until(lambda: _refused(one, "bad", "ModelInvalid"))
    assert refused.status == 503
    assert one.complete("good", "hello").status == 200
    assert one.end() == 0


def _failed(one, index):
    """The state of a resource's one replica, if it is between two tries."""
    replica = one.state.resources[index].replicas[0]
    return replica if replica.phase == "Failed" and replica.retry_s else None


def _refused(one, model, reason):
    reply = one.complete(model, "hello")
    return reply if reason in reply.body.get("error", {}).get("message", "") else None


def _alive(children):
    """Those that still run; what an init has yet to reap does not."""
    alive = []
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
                alive.append(child)
    return alive


def _busy(one):
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{one.metrics_port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return any(
        line.startswith("argosy_router_requests_in_flight") and float(line.split()[-1]) >= 1
        for line in text.splitlines()
    )


def _try(call):
    """What it returns; None when the connection ended."""
    try:
        return call()
    except (OSError, http.client.HTTPException):
        return None
