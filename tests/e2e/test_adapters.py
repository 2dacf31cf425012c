"""Adapters of a real model on the cluster: the list changes, no pod does, and each adapter's tokens are its own."""

import inspect
import json

import openai
from e2e_kit import resource, wait_for, wait_ready
from e2e_volumes import claim, write_model

SMALL = {"resources": {"cpu": "100m", "memory": "900Mi"}, "engine": {"threads": 1, "kvCacheMemory": "128Mi"}}
PROMPT = "The harbour master wrote down every ship that came in: "


def write_adapters():
    """Runs in a pod: two adapters of SmolLM2-135M and one without its tensors."""
    import os

    import numpy as np
    from safetensors.numpy import save_file

    for seed, name in enumerate(("pirate", "poet", "broken")):
        rng = np.random.default_rng(seed)
        at = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
        tensors = {}
        for layer in range(30):
            tensors[at.format(layer, "A")] = rng.standard_normal((8, 576)).astype(np.float32) / 24
            tensors[at.format(layer, "B")] = rng.standard_normal((576, 8)).astype(np.float32)
        os.makedirs(f"/models/{name}", exist_ok=True)
        config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}
        with open(f"/models/{name}/adapter_config.json", "w") as file:
            file.write(json.dumps(config))
        if name != "broken":
            save_file(tensors, f"/models/{name}/adapter_model.safetensors")


def listed(*names):
    return [{"name": name, "uri": f"pvc://models/{name}"} for name in names]


def states(namespace):
    found = namespace.get("infd", "m").get("status", {}).get("adapters", [])
    return {one["name"]: one["state"] for one in found}


def test_adapters_come_and_go_without_a_restart(system, namespace, volume, http):
    namespace.apply(claim(volume))
    code = f"import json\n{inspect.getsource(write_adapters)}"
    write_model(namespace, f"shutil.copyfile(source, target); exec({code!r}); write_adapters()")
    name = f"adapted-{namespace.namespace}"
    model = {"uri": "pvc://models/model.gguf", "servedName": name}
    namespace.apply(resource("m", model=model, adapters=listed("pirate"), replicas=2, **SMALL))
    wait_ready(namespace, "m", 240)
    wait_for("the first adapter is told", lambda: states(namespace) == {"pirate": "Ready"}, 60)
    pods = {pod["metadata"]["uid"] for pod in namespace.workers("m")}
    client = openai.OpenAI(base_url=f"http://{http}/v1", api_key="none", max_retries=0)

    def text(model):
        answer = client.completions.create(model=model, prompt=PROMPT, max_tokens=16, temperature=0)
        return answer.choices[0].text

    wait_for("the router knows it", lambda: f"{name}:pirate" in {m.id for m in client.models.list()} or None, 30)
    base, pirate = text(name), text(f"{name}:pirate")
    assert base != pirate

    namespace.patch("m", {"adapters": listed("pirate", "poet", "broken")})
    wanted = {"pirate": "Ready", "poet": "Ready", "broken": "Failed"}
    wait_for("the list is followed", lambda: states(namespace) == wanted, 150)
    condition = namespace.condition("m", "AdaptersLoaded")
    assert (condition["status"], condition["reason"]) == ("False", "AdapterFailed")
    assert "adapter_model.safetensors" in json.dumps(condition)
    assert namespace.condition("m")["status"] == "True"
    wait_for("the router knows it", lambda: f"{name}:poet" in {m.id for m in client.models.list()} or None, 30)
    assert len({base, pirate, text(f"{name}:poet")}) == 3
    assert (text(name), text(f"{name}:pirate")) == (base, pirate)

    namespace.patch("m", {"adapters": listed("poet")})
    wait_for("the list is followed", lambda: states(namespace) == {"poet": "Ready"}, 150)
    wait_for("the router knows it", lambda: f"{name}:pirate" not in {m.id for m in client.models.list()} or None, 30)
    assert text(name) == base
    assert {pod["metadata"]["uid"] for pod in namespace.workers("m")} == pods
