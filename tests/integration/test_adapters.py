"""Adapters from the resource to tokens: two workers, a list that changes under load, and nothing is lost or mixed up."""

import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b

import pytest
from embedded_kit import Up
from waiting import until

from argosy_api import adapters as lists
from argosy_api.params import SamplingParams
from argosy_api.resource import AdapterSpec
from argosy_worker import sim

RESOURCE = """
apiVersion: serving.argosy.dev/v1alpha1
kind: InferenceDeployment
metadata: {name: m}
spec:
  model: {uri: "sim://m?decode_ms=2&check=1"}
  replicas: 2
  adapters:
  - {name: pirate, uri: "sim://pirate"}
  - {name: poet, uri: "sim://poet"}
  - {name: broken, uri: "sim://broken?fail=1"}
"""
NEW = 24


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    home = tmp_path_factory.mktemp("adapters")
    (home / "m.yaml").write_text(RESOURCE)
    one = Up(home, [home / "m.yaml"]).start()
    try:
        one.until_ready()
        yield one
        assert one.end() == 0, one.output
    finally:
        one.clean_up()


def change(up, *names):
    """As an operator would: the workers' list is another one now."""
    (file,) = up.home.rglob(f"*{lists.FILE}")
    file.write_text(lists.to_json([AdapterSpec(name=name, uri=f"sim://{name}") for name in names]))


def expected(prompt, adapter=""):
    digest = blake2b(adapter.encode(), digest_size=16).hexdigest() if adapter else ""
    params = SamplingParams(max_tokens=NEW, temperature=0.0, ignore_eos=True)
    return bytes(sim.oracle(list(prompt.encode()), NEW, params, adapter=digest)).decode()


def ask(up, model, prompt):
    return up.complete(model, prompt, max_tokens=NEW, ignore_eos=True)


def names(up):
    return {model["id"] for model in up.request("/v1/models").body["data"]}


def test_all_are_there_when_the_workers_are_ready(up):
    """But the one that cannot be read, of which the others know nothing."""
    until(lambda: names(up) == {"m", "m:pirate", "m:poet"}, "all are reported")
    assert ask(up, "m:broken", "x").status == 503
    assert ask(up, "m:nobody", "x").status == 404
    for model, adapter in (("m", ""), ("m:pirate", "pirate"), ("m:poet", "poet")):
        assert ask(up, model, "Ahoy").text == expected("Ahoy", adapter)


def test_the_list_changes_under_load_and_nothing_is_lost(up):
    """Adapters come and go; whoever asks for the model, or for one that stays, notices nothing."""
    stop, failures, done = threading.Event(), [], []

    def load(number):
        asked = 0
        while not stop.is_set():
            adapter = ("", "pirate", "pirate", "")[(number + asked) % 4]
            prompt = f"{number % 2} a beginning that several of these requests share, {asked % 5}"
            reply = ask(up, f"m:{adapter}" if adapter else "m", prompt)
            if reply.status != 200 or reply.text != expected(prompt, adapter):
                failures.append((adapter, reply.status, reply.body))
            asked += 1
            done.append(adapter)

    with ThreadPoolExecutor(6) as pool:
        tasks = [pool.submit(load, number) for number in range(6)]
        try:
            for listed in (("pirate", "clown"), ("pirate",), ("clown", "pirate", "poet", "third"), ("pirate", "poet")):
                change(up, *listed)
                wanted = {"m", *(f"m:{name}" for name in listed)}
                until(lambda wanted=wanted: names(up) >= wanted, f"{wanted} are served")
                for adapter in listed:
                    assert ask(up, f"m:{adapter}", "And now?").text == expected("And now?", adapter)
                before = len(done)
                until(lambda before=before: len(done) > before + 12, "requests go on")
        finally:
            stop.set()
        for task in tasks:
            task.result()
    assert failures == []
    assert {"", "pirate"} == set(done)
    until(lambda: names(up) == {"m", "m:pirate", "m:poet", "m:broken"} - {"m:broken"}, "others are gone")
    assert ask(up, "m:third", "x").status == 404
