"""What embedded mode cannot honour is refused or named; nothing is silently ignored."""

import itertools

import pytest

from argosy_api import resource as api
from argosy_cli.embedded import assembly
from argosy_cli.embedded.machine import Machine
from argosy_cli.embedded.resources import Loaded
from argosy_cli.embedded.review import review
from argosy_cli.errors import ResourceError

CPU = Machine(cores=2, gpus=0)
GPU = Machine(cores=8, gpus=2)


def loaded(name="m", uri="file:///m.gguf", model=None, **spec):
    document = {
        "apiVersion": api.API_VERSION,
        "kind": api.KIND,
        "metadata": {"name": name},
        "spec": {"model": {"uri": uri, **(model or {})}, **spec},
    }
    return Loaded(api.parse(document), f"{name}.yaml")


def test_a_plain_resource_needs_no_words():
    assert review([loaded(replicas=2, engine={"threads": 1}, drain={"timeoutSeconds": 1})], CPU, {}) == []


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"image": "x"}, "spec.image"),
        ({"placement": {"nodeSelector": {"a": "b"}}}, "spec.placement"),
        ({"placement": {"spreadOver": "zone"}}, "spec.placement"),
        ({"disruption": {"maxUnavailable": 2}}, "spec.disruption"),
        ({"rollout": {"maxSurge": 2}}, "spec.rollout"),
        ({"resources": {"cpu": "4"}}, "spec.resources.cpu"),
        ({"resources": {"memory": "4Gi"}}, "spec.resources.memory"),
        ({"uri": "hf://o/r", "modelCache": {"type": "pvc", "claimName": "c"}}, "spec.modelCache"),
        ({"uri": "hf://o/r", "modelCache": {"size": "1Gi"}}, "spec.modelCache.size"),
    ],
)
def test_what_has_no_effect_is_named_once(spec, field):
    (line,) = review([loaded(**spec)], CPU, {})
    assert line.startswith(f"m: {field} ")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"uri": "pvc://claim/x"}, "spec.model.uri: pvc:// needs a cluster"),
        ({"uri": "oci://m:v1/x.gguf"}, "spec.model.uri: oci:// needs a cluster that mounts images.*as m%3Av1"),
        ({"uri": "hf://o/r", "model": {"tokenSecretRef": {"name": "s"}}}, "spec.model.tokenSecretRef: .*HF_TOKEN"),
        ({"resources": {"gpu": {}}}, "spec.resources.gpu: this machine has no CUDA device"),
        ({"parallelism": {"pipeline": 2}}, "spec.parallelism.pipeline: groups of pods need a cluster"),
        ({"parallelism": {"tensor": 2}}, "spec.parallelism.tensor: groups of pods need a cluster"),
        ({"engine": {"device": "cuda"}}, "spec.engine.device: is cuda"),
    ],
)
def test_what_a_worker_cannot_do_without_is_refused(spec, says):
    with pytest.raises(ResourceError, match=f"^m.yaml: {says}"):
        review([loaded(**spec)], CPU, {})


def test_a_token_from_the_environment_will_do():
    (line,) = review([loaded(uri="hf://o/r", model={"tokenSecretRef": {"name": "s"}})], CPU, {"HF_TOKEN": "t"})
    assert "spec.model.tokenSecretRef is taken from the environment variable HF_TOKEN" in line


def test_claims_may_be_folders(tmp_path):
    (tmp_path / "claim").mkdir()
    assert review([loaded(uri="pvc://claim/x")], CPU, {"ARGOSY_PVC_ROOT": str(tmp_path)}) == []
    with pytest.raises(ResourceError, match="the claim 'other' is no folder"):
        review([loaded(uri="pvc://other/x")], CPU, {"ARGOSY_PVC_ROOT": str(tmp_path)})


def test_images_may_be_folders(tmp_path):
    (tmp_path / "m%3Av1").mkdir()
    assert review([loaded(uri="oci://m:v1/x")], CPU, {"ARGOSY_IMAGE_ROOT": str(tmp_path)}) == []
    with pytest.raises(ResourceError, match="as m%3Av2"):
        review([loaded(uri="oci://m:v2/x")], CPU, {"ARGOSY_IMAGE_ROOT": str(tmp_path)})


def test_gpus_are_counted_over_all_resources():
    one, three = loaded(resources={"gpu": {}}), loaded("n", resources={"gpu": {}}, replicas=2)
    assert review([one], GPU, {}) == []
    with pytest.raises(ResourceError, match=r"n.yaml: spec.replicas: .* ask for 3 GPUs, this machine has 2"):
        review([one, three], GPU, {})


def test_a_model_that_is_cut_runs_where_one_pod_has_all_of_its_gpus():
    whole = loaded(parallelism={"tensor": 2}, resources={"gpu": {"count": 2}})
    assert review([whole], GPU, {}) == []
    assert list(itertools.islice(assembly._assign(whole.resource, GPU, iter("abcd")), 2)) == ["a,b", "c,d"]
    with pytest.raises(ResourceError, match="ask for 4 GPUs, this machine has 2"):
        review([whole, whole], GPU, {})
    with pytest.raises(
        ResourceError, match=r"here a worker is one pod: set 1, or resources\.gpu\.count to tensor times"
    ):
        review([loaded(parallelism={"tensor": 2}, resources={"gpu": {}})], GPU, {})


def test_gpus_are_counted_for_as_many_workers_as_there_may_be():
    with pytest.raises(ResourceError, match="ask for 3 GPUs, this machine has 2"):
        review([loaded(resources={"gpu": {}}, autoscaling={"maxReplicas": 3})], GPU, {})


def test_an_idle_gpu_is_mentioned():
    (line,) = review([loaded()], GPU, {})
    assert "spec.resources.gpu" in line
    assert review([loaded(uri="sim://m")], GPU, {}) == []
    assert review([loaded(engine={"device": "cpu"})], GPU, {}) == []
