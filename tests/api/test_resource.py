"""The resource: what is refused, with which path; what the defaults are; that the CRD says the same."""

import copy

import pytest
from pydantic import BaseModel
from pydantic.alias_generators import to_camel

from argosy_api import crd, quantity, resource, rules
from argosy_api.errors import InvalidArgumentError


def document(**changes):
    """A sound resource with some fields changed: keys are paths below spec with __ for dots; None removes."""
    made = {
        "apiVersion": "serving.argosy.dev/v1alpha1",
        "kind": "InferenceDeployment",
        "metadata": {"name": "smollm2"},
        "spec": {"model": {"uri": "sim://tiny"}},
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        at = made if parents[:1] == ["root"] else made["spec"]
        for key in parents:
            at = at if key == "root" else at.setdefault(key, {})
        if value is None:
            at.pop(last, None)
        else:
            at[last] = copy.deepcopy(value)
    return made


REFUSED = [
    ({"root__kind": "Deployment"}, "kind"),
    ({"root__apiVersion": "serving.argosy.dev/v1"}, "apiVersion"),
    ({"root__spec": None}, "spec"),
    ({"root__metadata": {"name": "No_Good"}}, "metadata.name"),
    ({"root__metadata": {"name": "7b"}}, "metadata.name"),
    ({"root__metadata": {"name": "llama-3.2-1b"}}, "metadata.name"),
    ({"root__metadata": {"name": "a\n"}}, "metadata.name"),
    ({"root__metadata": {}}, "metadata.name"),
    ({"root__metadata": {"name": "x" * (rules.MAX_NAME + 1)}}, "metadata.name"),
    ({"root__sepc": {}}, "sepc"),
    ({"model": None}, "spec.model"),
    ({"model": "sim://x"}, "spec.model"),
    ({"model": {}}, "spec.model.uri"),
    ({"model__uri": "http://example.com/model"}, "spec.model.uri"),
    ({"model__uri": "s3://bucket"}, "spec.model.uri"),
    ({"model__uri": "sim://"}, "spec.model.uri"),
    ({"model__uri": "sim://a b"}, "spec.model.uri"),
    ({"model__uri": 5}, "spec.model.uri"),
    ({"model__servedName": ""}, "spec.model.servedName"),
    ({"model__servedName": "-x"}, "spec.model.servedName"),
    ({"model__servedName": "team-a/llama"}, "spec.model.servedName"),
    ({"model__maxModelLen": 15}, "spec.model.maxModelLen"),
    ({"model__maxModelLen": 2**21}, "spec.model.maxModelLen"),
    ({"model__tokenSecretRef": {"name": "x"}}, "spec.model.tokenSecretRef"),
    ({"model__uri": "hf://a/b", "model__tokenSecretRef": {}}, "spec.model.tokenSecretRef.name"),
    ({"replicas": -1}, "spec.replicas"),
    ({"replicas": 1001}, "spec.replicas"),
    ({"replicas": "2"}, "spec.replicas"),
    ({"replicas": 1.5}, "spec.replicas"),
    ({"replicas": True}, "spec.replicas"),
    ({"replica": 2}, "spec.replica"),
    ({"engine": []}, "spec.engine"),
    ({"engine__device": "tpu"}, "spec.engine.device"),
    ({"engine__compute": "int3"}, "spec.engine.compute"),
    ({"engine__compute": "bf16", "engine__device": "cpu"}, "spec.engine.compute"),
    ({"engine__compute": "int8", "engine__device": "cuda"}, "spec.engine.compute"),
    ({"quantization__weights": "int3"}, "spec.quantization.weights"),
    ({"quantization__kvCache": "int4"}, "spec.quantization.kvCache"),
    ({"quantization__groupSize": 48}, "spec.quantization.groupSize"),
    (
        {"model__uri": "file:///m", "quantization__weights": "int4", "quantization__groupSize": 48},
        "spec.quantization.groupSize",
    ),
    (
        {"model__uri": "file:///m", "quantization__weights": "fp8", "quantization__groupSize": 32},
        "spec.quantization.groupSize",
    ),
    (
        {"model__uri": "file:///m", "quantization__weights": "int4", "engine__compute": "fp32"},
        "spec.quantization.weights",
    ),
    ({"model__uri": "sim://m", "quantization__weights": "int4"}, "spec.quantization"),
    ({"model__uri": "sim://m", "quantization__kvCache": "int8"}, "spec.quantization"),
    ({"engine__blockSize": 24}, "spec.engine.blockSize"),
    ({"engine__blockSize": 4}, "spec.engine.blockSize"),
    ({"engine__blocksize": 16}, "spec.engine.blocksize"),
    ({"engine__maxBatchTokens": 7}, "spec.engine.maxBatchTokens"),
    ({"engine__maxBatchTokens": 32}, "spec.engine.maxBatchTokens"),
    ({"engine__maxRunning": 0}, "spec.engine.maxRunning"),
    ({"engine__batching": "eager"}, "spec.engine.batching"),
    ({"engine__batchSize": 4}, "spec.engine.batchSize"),
    ({"engine__batching": "static", "engine__batchSize": 65}, "spec.engine.batchSize"),
    ({"engine__batchWaitSeconds": 1.0}, "spec.engine.batchWaitSeconds"),
    ({"engine__batching": "dynamic", "engine__batchWaitSeconds": 61.0}, "spec.engine.batchWaitSeconds"),
    ({"engine__kvCacheMemory": "2 GB"}, "spec.engine.kvCacheMemory"),
    ({"engine__kvCacheMemory": "-1Gi"}, "spec.engine.kvCacheMemory"),
    ({"engine__kvCacheMemory": "512m"}, "spec.engine.kvCacheMemory"),
    ({"engine__kvCacheMemory": "0.5"}, "spec.engine.kvCacheMemory"),
    ({"engine__kvCacheMemory": 0}, "spec.engine.kvCacheMemory"),
    ({"engine__kvCacheHostMemory": "512m"}, "spec.engine.kvCacheHostMemory"),
    ({"engine__kvCacheHostMemory": "much"}, "spec.engine.kvCacheHostMemory"),
    ({"engine__kvCacheHostMemory": "2Gi"}, "spec.engine.kvCacheHostMemory"),  # all of the default memory
    ({"engine__kvCacheHostMemory": 1 << 40, "resources__memory": "1Ti"}, "spec.engine.kvCacheHostMemory"),
    ({"engine__kvCacheHostMemory": "1Gi", "engine__prefixCaching": False}, "spec.engine.kvCacheHostMemory"),
    ({"engine__adapterMemory": "512m"}, "spec.engine.adapterMemory"),
    ({"engine__adapterMemory": "much"}, "spec.engine.adapterMemory"),
    ({"adapters": [{"name": "a", "uri": "sim://a"}, {"name": "a", "uri": "sim://b"}]}, "spec.adapters"),
    ({"adapters": [{"name": "a", "uri": "hf://a/b"}]}, "spec.adapters"),  # of a sim:// model
    ({"adapters": [{"name": "a", "uri": "sim://a"}], "model__uri": "hf://a/b"}, "spec.adapters"),
    ({"adapters": [{"name": "a", "uri": "pvc://c/a"}], "model__uri": "hf://a/b"}, "spec.adapters"),
    (
        {"adapters": [{"name": "a", "uri": "hf://a/c"}], "model__uri": "hf://a/b", "parallelism": {"pipeline": 2}},
        "spec.adapters",
    ),
    ({"adapters": [{"name": "a", "uri": "oci://image:1/a"}], "model__uri": "hf://a/b"}, "spec.adapters"),
    ({"adapters": [{"name": "a:b", "uri": "sim://a"}]}, "spec.adapters[0].name"),
    ({"adapters": [{"name": "a"}]}, "spec.adapters[0].uri"),
    ({"resources__memory": "0"}, "spec.resources.memory"),
    ({"resources__memory": "999m"}, "spec.resources.memory"),
    ({"resources__cpu": -1}, "spec.resources.cpu"),
    ({"model__uri": "hf://a/b", "modelCache": {"size": "20m"}}, "spec.modelCache.size"),
    ({"engine__prefixCaching": "yes"}, "spec.engine.prefixCaching"),
    ({"engine__queueOrder": "lifo"}, "spec.engine.queueOrder"),
    ({"engine__queueAgeing": -1}, "spec.engine.queueAgeing"),
    ({"engine__threads": 0}, "spec.engine.threads"),
    ({"engine__speculative": {"method": "medusa"}}, "spec.engine.speculative.method"),
    ({"engine__speculative": {"method": "draft"}}, "spec.engine.speculative.model"),
    ({"engine__speculative": {"method": "ngram", "model": "sim://d"}}, "spec.engine.speculative.model"),
    ({"engine__speculative": {"method": "off", "model": "sim://d"}}, "spec.engine.speculative.model"),
    ({"engine__speculative": {"model": "http://d"}}, "spec.engine.speculative.model"),
    ({"engine__speculative": {"model": "file:///a%00"}}, "spec.engine.speculative.model"),
    ({"engine__speculative": {"maxDraft": 0}}, "spec.engine.speculative.maxDraft"),
    ({"engine__speculative": {"maxDraft": 17}}, "spec.engine.speculative.maxDraft"),
    ({"engine__speculative": {"model": "sim://d"}, "modelCache": {}}, "spec.modelCache"),
    ({"parallelism": {"tensor": 2}}, "spec.parallelism.tensor"),
    ({"parallelism": {"tensor": 0}}, "spec.parallelism.tensor"),
    ({"parallelism": {"pipeline": 0}}, "spec.parallelism.pipeline"),
    ({"parallelism": {"pipeline": 17}}, "spec.parallelism.pipeline"),
    ({"parallelism": {"pipeline": 2}}, "spec.parallelism.pipeline"),  # sim://
    ({"parallelism": {"tensor": 2}}, "spec.parallelism.tensor"),  # sim://
    ({"parallelism": {"tensor": 17}, "model__uri": "hf://a/b"}, "spec.parallelism.tensor"),
    ({"parallelism": {"tensor": 4, "pipeline": 5}, "model__uri": "hf://a/b"}, "spec.parallelism.tensor"),
    ({"parallelism": {"tensor": 2}, "model__uri": "hf://a/b", "disaggregation": {}}, "spec.parallelism.tensor"),
    ({"resources__gpu": {"count": 2}, "model__uri": "hf://a/b"}, "spec.resources.gpu.count"),
    (
        {"parallelism": {"tensor": 2}, "resources__gpu": {"count": 4}, "model__uri": "hf://a/b"},
        "spec.resources.gpu.count",
    ),
    (
        {"parallelism": {"tensor": 3}, "resources__gpu": {"count": 2}, "model__uri": "hf://a/b"},
        "spec.resources.gpu.count",
    ),
    (
        {"parallelism": {"tensor": 2, "pipeline": 3}, "resources__gpu": {"count": 4}, "model__uri": "hf://a/b"},
        "spec.resources.gpu.count",
    ),
    (
        {"parallelism": {"tensor": 3, "pipeline": 2}, "resources__gpu": {"count": 2}, "model__uri": "hf://a/b"},
        "spec.resources.gpu.count",
    ),
    (
        {"parallelism": {"tensor": 16}, "resources__gpu": {"count": 17}, "model__uri": "hf://a/b"},
        "spec.resources.gpu.count",
    ),
    (
        {"parallelism": {"tensor": 2}, "model__uri": "hf://a/b", "engine__kvCacheHostMemory": "1Gi"},
        "spec.parallelism.tensor",
    ),
    ({"parallelism": {"pipeline": 2}, "model__uri": "hf://a/b", "disaggregation": {}}, "spec.parallelism.pipeline"),
    (
        {"parallelism": {"pipeline": 2}, "model__uri": "hf://a/b", "engine__speculative": {"model": "hf://c/d"}},
        "spec.parallelism.pipeline",
    ),
    (
        {"parallelism": {"pipeline": 2}, "model__uri": "hf://a/b", "engine__kvCacheHostMemory": "1Gi"},
        "spec.parallelism.pipeline",
    ),
    ({"resources__cpu": 1.5}, "spec.resources.cpu"),
    ({"resources__memory": "lots"}, "spec.resources.memory"),
    ({"resources__gpu": {}}, "spec.resources.gpu"),
    ({"resources__gpu": {}, "engine__device": "cpu", "model__uri": "hf://a/b"}, "spec.resources.gpu"),
    ({"resources__gpu": {"count": 2}, "model__uri": "hf://a/b"}, "spec.resources.gpu.count"),
    ({"resources__gpu": {"resourceName": "gpu"}, "model__uri": "hf://a/b"}, "spec.resources.gpu.resourceName"),
    ({"image": ""}, "spec.image"),
    ({"placement__tolerations": [{"operator": "In"}]}, "spec.placement.tolerations[0].operator"),
    ({"placement__nodeSelector": {"a": 1}}, "spec.placement.nodeSelector.a"),
    ({"modelCache": {}}, "spec.modelCache"),
    ({"model__uri": "hf://a/b", "modelCache": {"type": "pvc"}}, "spec.modelCache.claimName"),
    ({"model__uri": "hf://a/b", "modelCache": {"claimName": "c"}}, "spec.modelCache.claimName"),
    (
        {"model__uri": "hf://a/b", "modelCache": {"type": "pvc", "claimName": "c", "size": "1Gi"}},
        "spec.modelCache.size",
    ),
    ({"routing__policy": "random"}, "spec.routing.policy"),
    ({"routing__fetchBlocks": "no"}, "spec.routing.fetchBlocks"),
    ({"routing__holdSeconds": -1}, "spec.routing.holdSeconds"),
    ({"routing__holdSeconds": 3601}, "spec.routing.holdSeconds"),
    (
        {"autoscaling": {"maxReplicas": 2, "minReplicas": 0, "scaleToZero": {}}, "routing__holdSeconds": 5},
        "spec.routing.holdSeconds",
    ),
    ({"disaggregation": {}, "routing__fetchBlocks": False}, "spec.routing.fetchBlocks"),
    ({"disaggregation": {}, "replicas": 2}, "spec.replicas"),
    ({"disaggregation": {}, "replicas": 0}, "spec.replicas"),
    ({"disaggregation": {}, "engine__prefixCaching": False}, "spec.engine.prefixCaching"),
    ({"disaggregation": {"prefill": {"replicas": 0}}}, "spec.disaggregation.prefill.replicas"),
    ({"disaggregation": {"decode": 2}}, "spec.disaggregation.decode"),
    ({"autoscaling": {"maxReplicas": 2}, "replicas": 2}, "spec.replicas"),
    ({"autoscaling": {"maxReplicas": 2}, "disaggregation": {}}, "spec.autoscaling"),
    ({"autoscaling": {"maxReplicas": 2, "minReplicas": 3}}, "spec.autoscaling.minReplicas"),
    ({"autoscaling": {"maxReplicas": 2, "minReplicas": 0}}, "spec.autoscaling.minReplicas"),
    ({"autoscaling": {"maxReplicas": 2, "scaleToZero": {}}}, "spec.autoscaling.scaleToZero"),
    (
        {"autoscaling": {"maxReplicas": 2, "metrics": [{"type": "kvUsage", "target": 2}]}},
        "spec.autoscaling.metrics",
    ),
    (
        {"autoscaling": {"maxReplicas": 2, "schedule": [{"start": "08:00", "end": "09:00", "minReplicas": 3}]}},
        "spec.autoscaling.schedule",
    ),
    ({"engine__maxPromptShare": 0}, "spec.engine.maxPromptShare"),
    ({"rollout": {"maxSurge": 0}}, "spec.rollout.maxSurge"),
    ({"rollout__progressDeadlineSeconds": 1}, "spec.rollout.progressDeadlineSeconds"),
    ({"rollout": {"strategy": "Recreate", "partition": 1}}, "spec.rollout.partition"),
    ({"rollout": {"partition": 1}, "disaggregation": {}}, "spec.rollout.partition"),
    ({"rollout__revisionHistoryLimit": 0}, "spec.rollout.revisionHistoryLimit"),
    ({"rollout": {"strategy": "Canary"}}, "spec.rollout.canary"),
    ({"rollout": {"canary": {"steps": [{"weight": 1}]}}}, "spec.rollout.canary"),
    (
        {"rollout": {"strategy": "Canary", "canary": {"steps": [{"weight": 9}, {"weight": 8}]}}},
        "spec.rollout.canary.steps",
    ),
    (
        {"rollout": {"strategy": "Canary", "canary": {"steps": [{"weight": 0}]}}},
        "spec.rollout.canary.steps[0].weight",
    ),
    (
        {"rollout": {"strategy": "Canary", "canary": {"steps": [{"weight": 1}]}}, "disaggregation": {}},
        "spec.rollout.strategy",
    ),
    ({"disruption__maxUnavailable": -1}, "spec.disruption.maxUnavailable"),
    ({"drain__timeoutSeconds": 3601}, "spec.drain.timeoutSeconds"),
]


@pytest.mark.parametrize(("changes", "path"), REFUSED, ids=lambda v: str(v)[:60])
def test_wrong_resources_are_refused_with_the_path(changes, path):
    with pytest.raises(InvalidArgumentError) as refused:
        resource.parse(document(**changes))
    assert refused.value.field == path
    assert len(refused.value.message) > len(path) + 5


@pytest.mark.parametrize("value", [None, [], "text", 5])
def test_what_is_no_mapping_is_refused(value):
    with pytest.raises(InvalidArgumentError, match="mapping"):
        resource.parse(value)


def test_a_typing_error_gets_a_hint():
    with pytest.raises(InvalidArgumentError, match="did you mean replicas"):
        resource.parse(document(replica=2))


def test_defaults():
    parsed = resource.parse(document())
    assert parsed.served_name == "smollm2"
    assert parsed.metadata.namespace == "default"
    assert parsed.spec.replicas == 1
    assert parsed.spec.engine.block_size == 16
    assert parsed.spec.routing.policy == "kvAware"
    assert parsed.spec.rollout.max_unavailable == 0


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({}, 0),
        ({"routing__holdSeconds": 20}, 20),
        ({"autoscaling": {"maxReplicas": 2}, "routing__holdSeconds": 20}, 20),
        ({"autoscaling": {"maxReplicas": 2, "minReplicas": 0, "scaleToZero": {"holdSeconds": 7}}}, 7),
    ],
)
def test_how_long_requests_are_held(changes, seconds):
    assert resource.parse(document(**changes)).spec.hold_seconds == seconds


def test_a_model_that_guesses_ahead_may_be_what_is_downloaded():
    made = document(
        model__tokenSecretRef={"name": "s"}, modelCache={"size": "1Gi"}, engine__speculative={"model": "hf://a/b"}
    )
    assert [uri.scheme for uri in resource.parse(made).model_uris] == ["sim", "hf"]


def test_what_the_api_server_adds_is_ignored():
    made = document()
    made["metadata"] |= {
        "uid": "u",
        "generation": 3,
        "managedFields": [],
        "resourceVersion": "5",
        "creationTimestamp": "t",
    }
    made["status"] = {"anything": 1}
    assert resource.parse(made).metadata.generation == 3


def schema_at(path):
    at = crd.crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for key in path.split("."):
        at = at["properties"][key]
    return at


def test_the_crd_has_the_same_defaults_as_the_types():
    """What the API server fills in is what embedded mode assumes."""

    def walk(model, path):
        for name, field in type(model).model_fields.items():
            value, at = getattr(model, name), f"{path}.{to_camel(name)}"
            if isinstance(value, BaseModel):
                walk(value, at)
            elif value is not None and not field.is_required() and value not in ({}, []):
                assert schema_at(at)["default"] == value, at

    walk(resource.parse(document()).spec, "spec")


def test_the_crd_is_structural():
    """Every node has a type or is int-or-string; nothing that the API server refuses is left."""

    def walk(node, path):
        assert "type" in node or node.get("x-kubernetes-int-or-string"), path
        assert not {"$ref", "title", "const", "oneOf", "exclusiveMinimum"} & node.keys(), path
        assert not ({"additionalProperties", "properties"} <= node.keys()), path
        for name, child in node.get("properties", {}).items():
            walk(child, f"{path}.{name}")
        for key in ("items", "additionalProperties"):
            if key in node:
                walk(node[key], f"{path}.{key}")

    walk(crd.crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"], "")


def test_every_field_of_the_crd_is_explained():
    """`kubectl explain` has a sentence for each."""

    def walk(node, path):
        for name, child in node.get("properties", {}).items():
            if path.startswith("spec") or path == "":
                assert child.get("description") or path == "", f"{path}.{name}"
            walk(child, f"{path}.{name}".lstrip("."))

    walk(schema_at("spec"), "spec")


def test_every_rule_is_in_the_crd_and_has_a_case_above():
    text = crd.crd_yaml()
    blamed = {path for _, path in REFUSED}
    for rule in rules.RULES:
        assert rule.message.split("'")[0][:30] in " ".join(text.split()), rule
        assert f"{rule.at}.{rule.field}".lstrip(".") in blamed


@pytest.mark.parametrize(
    ("text", "number"), [("512Mi", 2**29), ("2G", 2 * 10**9), (5, 5), ("1.5Gi", 3 * 2**29), ("500m", 0), ("0", 0)]
)
def test_quantities(text, number):
    assert quantity.parse_bytes(text) == number


@pytest.mark.parametrize("text", ["", "Mi", "-5", "1e3", "5 Mi", "5mi", ".5", "1..5", "9" * 30, "1Mi "])
def test_what_is_no_quantity(text):
    with pytest.raises(ValueError, match="quantity"):
        quantity.parse(text)


@pytest.mark.parametrize(
    "model",
    [
        {"uri": "hf://a/b", "tokenSecretRef": "hf_secret"},  # a token where the name of its Secret belongs
        {"uri": "hf://a/b", "tokenSecretRef": {"name": "x" * 300 + "hf_secret"}},
        {"uri": "hf://user:hf_secret@a/b"},
        {"uri": "hf://a/b@$(hf_secret)"},
    ],
)
def test_a_message_repeats_nothing_that_may_be_a_secret(model):
    document = {"apiVersion": "serving.argosy.dev/v1alpha1", "kind": "InferenceDeployment", "metadata": {"name": "m"}}
    with pytest.raises(InvalidArgumentError) as caught:
        resource.parse({**document, "spec": {"model": model}})
    assert caught.value.field.startswith("spec.model.")
    assert "hf_secret" not in caught.value.message
