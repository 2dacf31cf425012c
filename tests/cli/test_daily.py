"""Runs in the background, and what is done with them, as a user would: with simulated models."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading

import psutil
import pytest
from reserved import free_port
from waiting import LIMIT_S, until

from argosy_api.orders import FOLDER, Order, new_key, place, take
from argosy_cli.embedded import orders, run

HEAD = "apiVersion: serving.argosy.dev/v1alpha1\nkind: InferenceDeployment\n"
SIM = "sim://m?prefill_tps=20000&decode_ms=2"


def sim(name="sim", replicas=1, uri=SIM, **spec):
    extra = "".join(f"  {key}: {value}\n" for key, value in spec.items())
    return f"{HEAD}metadata:\n  name: {name}\nspec:\n  model:\n    uri: {uri}\n  replicas: {replicas}\n{extra}"


class Here:
    """A state folder, and commands in it."""

    def __init__(self, home):
        self.home = home
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("ARGOSY_", "HF_"))}
        self.environment["ARGOSY_HOME"] = str(home)
        self.ports = [f"--{kind}-port={free_port()}" for kind in ("http", "grpc", "metrics")]

    def __call__(self, *arguments, stdin=""):
        done = subprocess.run(
            [sys.executable, "-m", "argosy_cli", *arguments],
            env=self.environment, input=stdin, capture_output=True, text=True, timeout=LIMIT_S * 2, check=False,
            cwd=self.home,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    def up(self, *texts, options=()):
        files = []
        for i, text in enumerate(texts):
            files.append(self.home / f"r{i}.yaml")
            files[-1].write_text(text)
        return self("up", *map(str, files), *self.ports, *options)

    @property
    def states(self):
        return run.live(self.home)

    def replicas(self, name="sim"):
        return [r for s in self.states for item in s.resources if item.name == name for r in item.replicas]


@pytest.fixture
def here(tmp_path):
    one = Here(tmp_path)
    yield one
    for state in one.states:
        os.kill(state.pid, signal.SIGKILL)


def test_a_run_in_the_background_goes_on_until_it_is_ended(here):
    code, out, err = here.up(sim(replicas=2), options=["-d"])
    assert (code, err) == (0, ""), (out, err)
    assert "sim: 2 of 2 replicas ready" in out
    assert "`argosy down` ends it" in out
    code, out, _ = here("ps", "-o", "json")
    (item,) = json.loads(out)["items"]
    assert [r["phase"] for r in item["resources"][0]["replicas"]] == ["Ready", "Ready"]
    assert "2/2" in here("ps")[1]
    names = {r.name for r in here.replicas()}
    logs = here("logs", "sim", "-n", "3")[1]
    assert all(name in logs for name in names)
    assert "router" not in logs
    assert "sim: 2 of 2 replicas ready" in here("logs", "up")[1]
    children = psutil.Process(here.states[0].pid).children(recursive=True)
    following = subprocess.Popen(
        [sys.executable, "-m", "argosy_cli", "logs", "-f", "-n", "0"], env=here.environment, stdout=subprocess.PIPE
    )
    code, out, err = here("down")
    assert (code, err) == (0, "")
    assert out.startswith("ended run ")
    assert following.wait(LIMIT_S) == 0  # with the run
    following.stdout.close()
    assert here.states == []
    until(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children))
    assert here("down")[0] == 1
    assert here("ps")[0] == 0


def test_a_second_up_applies_to_the_run_that_is_there(here):
    assert here.up(sim(replicas=1), options=["-d"])[0] == 0
    (first,) = here.replicas()
    code, out, err = here.up(sim(replicas=2), sim("other"))
    assert (code, err) == (0, ""), (out, err)
    assert "Applied to run" in out
    assert len(here.states) == 1
    assert here.replicas()[0].pid == first.pid  # what stays as it was goes on
    assert [len(here.replicas(name)) for name in ("sim", "other")] == [2, 1]
    assert all(r.ready for name in ("sim", "other") for r in here.replicas(name))
    # another template: new workers, and the old ones go when those serve
    assert here.up(sim(replicas=1, engine="{blockSize: 32}"))[0] == 0
    changed = until(lambda: [r for r in here.replicas() if r.ready] if len(here.replicas()) == 1 else None)
    assert changed[0].name != first.name
    assert len(here.replicas("other")) == 1  # what the file does not name is left alone
    address = here.states[0].grpc
    assert here("generate", "--raw", "hi", "--model", "other", "--max-tokens", "2")[0] == 0
    moved = address.replace("127.0.0.1", "localhost")
    code, _, err = here("generate", "--raw", "hi", "--address", moved)
    assert (code, "choose one with --model: other, sim" in err) == (5, True)
    code, out, _ = here("down", "other")
    assert (code, "other ended" in out) == (0, True)
    assert [r.name for r in here.states[0].resources] == ["sim"]
    assert here("down", "nobody")[0] == 1
    assert here("down", "sim")[0] == 0  # the last one: with it the run
    assert here.states == []


def test_what_a_run_refuses_is_told_and_changes_nothing(here):
    assert here.up(sim(), options=["-d"])[0] == 0
    before = here.replicas()[0].pid
    code, _, err = here.up(sim(), sim("other").replace("    uri", "    servedName: sim\n    uri"))
    assert (code, "served" in err) == (2, True)
    code, _, err = here.up(sim("other").replace("    uri", "    servedName: sim\n    uri"))
    assert (code, "is served as 'sim', too" in err) == (1, True)
    assert here.replicas()[0].pid == before
    assert len(here.states[0].resources) == 1


def test_a_replica_that_is_to_die_is_started_anew(here):
    assert here.up(sim(), options=["-d"])[0] == 0
    (before,) = here.replicas()
    state = here.states[0]
    orders.ask(here.home, state.run, Order(key=new_key(), kill=before.name))
    until(lambda: here.replicas()[0].restarts == 1 and here.replicas()[0].ready)
    assert here.replicas()[0].pid != before.pid
    with pytest.raises(Exception, match="there is no replica x"):
        orders.ask(here.home, state.run, Order(key=new_key(), kill="x"))


def test_up_ends_when_nothing_can_ever_serve(here):
    code, out, err = here.up(sim(uri="file:///no/such.gguf"))
    assert code == 1
    assert "error: nothing can be served: sim: ModelNotFound: " in err
    code, out, err = here.up(sim(uri="sim://a?bogus=1"), options=["-d"])
    assert code == 1, (out, err)
    assert "nothing can be served: sim: Model" in err
    assert here.states == []


def test_run_answers_and_leaves_nothing(here):
    code, out, err = here("run", "sim", "Hello", "--max-tokens", "5", "--seed", "1", "--temperature", "0")
    assert code == 0, err
    assert out.strip()
    assert "5 generated" in err
    assert here.states == []
    assert here("run", "sim", "--max-tokens", "5", "--seed", "1", "--temperature", "0", stdin="Hello")[1] == out
    code, _, err = here("run", "smolm")
    assert (code, "did you mean smollm2?" in err) == (1, True)


def test_run_asks_who_serves_the_model_already(here):
    assert here("serve", "sim", "--name", "mine", "-d", *here.ports)[0] == 0
    worker = here.replicas("mine")[0].name
    code, _, err = here("run", "sim", "Hello", "--max-tokens", "3")
    assert (code, worker in err) == (0, True)
    assert len(here.states) == 1


def test_serve_prints_the_resource_that_it_stands_for(here):
    code, out, err = here("serve", "sim", "--replicas", "2", "--dry-run")
    assert (code, err) == (0, "")
    assert here.up(out, options=["-d"])[0] == 0
    assert len(here.replicas()) == 2
    code, _, err = here("serve", "sim", "--weights", "int3", "--dry-run")
    assert (code, "spec.quantization" in err) == (1, True)


def test_a_conversation_in_a_terminal(here):
    """Ctrl-C ends an answer and not the conversation; lines with a slash are not the model's."""
    assert here("serve", "sim://m?decode_ms=50&eos_every=0", "--name", "slow", "-d", *here.ports)[0] == 0
    ours, theirs = pty.openpty()
    talk = subprocess.Popen(
        [sys.executable, "-m", "argosy_cli", "chat", "--max-tokens", "900"],
        env={**here.environment, "TERM": "dumb"}, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    seen = []
    reader = threading.Thread(target=_read, args=(ours, seen))
    reader.start()
    try:
        until(lambda: "> " in "".join(seen))
        os.write(ours, b"/help\n")
        until(lambda: "/clear" in "".join(seen))
        os.write(ours, b"/set max_tokens 800\n")
        until(lambda: "max_tokens is 800" in "".join(seen))
        os.write(ours, b"tell me\n")
        # the terminal shows the question up to twice, and readline may add its codes: what comes behind is the answer
        until(lambda: len("".join(seen).partition("max_tokens is 800")[2]) > 80)
        talk.send_signal(signal.SIGINT)
        until(lambda: "generated" in "".join(seen))
        generated = int("".join(seen).partition(" generated")[0].rpartition(" ")[2])
        assert 0 < generated < 800
        os.write(ours, b"/bye\n")
        assert talk.wait(LIMIT_S) == 0
    finally:
        talk.kill()
        talk.wait()
        reader.join()
        os.close(ours)


def _read(descriptor, seen):
    while True:
        try:
            data = os.read(descriptor, 4096)
        except OSError:  # the other side is closed
            return
        if not data:
            return
        seen.append(data.decode(errors="replace"))


def test_orders_of_strangers_are_dropped(tmp_path):
    folder = tmp_path / FOLDER
    folder.mkdir()
    for i, text in enumerate(["", "[]", '{"key": 1, "colour": 2}', "\xff", "[" * 3000]):
        (folder / f"{i}.json").write_text(text)
    place(folder, Order(key="a", kill="b"))
    assert take(folder) == [Order(key="a", apply=[], remove=[], kill="b")]
    assert list(folder.iterdir()) == []


def test_the_state_folder_is_the_users_whatever_folder_he_is_in(tmp_path, monkeypatch):
    home = {"XDG_STATE_HOME": str(tmp_path)}
    assert run.home(home) == tmp_path / "argosy"
    assert run.home({"ARGOSY_HOME": str(tmp_path / "x"), **home}) == tmp_path / "x"
    monkeypatch.setenv("HOME", str(tmp_path))
    for environment in ({}, {"XDG_STATE_HOME": ""}, {"XDG_STATE_HOME": "relative"}):
        assert run.home(environment) == tmp_path / ".local" / "state" / "argosy"
        assert run.cache(environment) == tmp_path / ".cache" / "argosy"
    assert run.cache({"XDG_CACHE_HOME": "/c"}).as_posix() == "/c/argosy"


def test_the_shell_completes_commands_and_models(here):
    def completed(words):
        asked = {"_ARGOSY_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
        code = "import sys; sys.argv = ['argosy']; from argosy_cli.main import app; app(prog_name='argosy')"
        done = subprocess.run(
            [sys.executable, "-c", code], env=here.environment | asked, capture_output=True, text=True, check=True
        )
        return set(done.stdout.split())

    assert completed("argosy run s") == {"smollm2", "sim"}
    assert {"serve", "show", "status"} <= completed("argosy s")
