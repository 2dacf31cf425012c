"""Resource files: what is accepted, and that each refusal names file, document, field and what would be right."""

import io
import re
import sys
from pathlib import Path

import pytest
import yaml

from argosy_cli import demo
from argosy_cli.embedded import resources
from argosy_cli.errors import ResourceError

EXAMPLES = Path(__file__).resolve().parents[2] / "deploy" / "examples"
GOOD = """\
apiVersion: serving.argosy.dev/v1alpha1
kind: InferenceDeployment
metadata:
  name: m
spec:
  model:
    uri: sim://m
"""


def good(**spec):
    document = yaml.safe_load(GOOD)
    document["spec"] |= spec
    return document


def changed(path, value):
    """The good resource with one field set (dots in the path); None removes it."""
    document = yaml.safe_load(GOOD)
    *parents, last = path.split(".")
    at = document
    for key in parents:
        at = at.setdefault(key, {})
    if value is None:
        del at[last]
    else:
        at[last] = value
    return document


@pytest.fixture
def load(tmp_path):
    def call(*texts):
        paths = []
        for i, text in enumerate(texts):
            path = tmp_path / f"file{i}.yaml"
            path.write_text(text) if isinstance(text, str) else path.write_bytes(text)
            paths.append(path)
        return resources.load(paths)

    return call


def refusal(load, *texts):
    with pytest.raises(ResourceError) as caught:
        load(*texts)
    assert caught.value.exit_code == 2
    return caught.value.message


def test_one_file(load):
    (item,) = load(GOOD)
    assert item.resource.metadata.name == "m"
    assert item.origin.endswith("file0.yaml")


def test_several_documents_and_files_keep_their_order(load):
    second, third = GOOD.replace("m", "n", 0).replace("name: m", "name: n"), GOOD.replace("name: m", "name: o")
    loaded = load(f"---\n{GOOD}---\n{second}---\n", third)
    assert [i.resource.metadata.name for i in loaded] == ["m", "n", "o"]
    assert loaded[1].origin.endswith("file0.yaml, document 2")
    assert loaded[2].origin.endswith("file1.yaml")


def test_stdin(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(GOOD.encode())))
    assert [i.resource.metadata.name for i in resources.load([Path("-")])] == ["m"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda p: p.name)
def test_examples_are_sound(path):
    documents = [d for d in yaml.safe_load_all(path.read_text()) if d and d["kind"] == "InferenceDeployment"]
    for document in documents:
        from argosy_api import resource

        assert resource.parse(document).metadata.name == document["metadata"]["name"]


def test_the_demo_runs_the_example():
    assert yaml.safe_load(demo.RESOURCE) == yaml.safe_load((EXAMPLES / "smollm2-cpu.yaml").read_text())


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("apiVersion", "v1", "apiVersion"),
        ("apiVersion", None, "apiVersion"),
        ("kind", "Deployment", "kind"),
        ("metadata.name", None, "metadata.name"),
        ("metadata.name", "Upper", "metadata.name"),
        ("metadata.name", "x" * 41, "metadata.name"),
        ("metadata.namespace", "a_b", "metadata.namespace"),
        ("spec", None, "spec"),
        ("spec.model", None, "spec.model"),
        ("spec.model.uri", None, "spec.model.uri"),
        ("spec.model.uri", "s3://bucket/x", "spec.model.uri"),
        ("spec.model.uri", "just-a-name", "spec.model.uri"),
        ("spec.model.uri", 7, "spec.model.uri"),
        ("spec.model.url", "sim://m", "spec.model.url: is not a field of this resource; did you mean uri?"),
        ("spec.model.servedName", "-x", "spec.model.servedName"),
        ("spec.model.maxModelLen", 1, "spec.model.maxModelLen"),
        ("spec.model.tokenSecretRef", {"name": "x"}, "spec.model.tokenSecretRef: is only for hf:// models"),
        ("spec.replicas", -1, "spec.replicas"),
        ("spec.replicas", "2", "spec.replicas"),
        ("spec.replicas", 2.5, "spec.replicas"),
        ("spec.replicas", True, "spec.replicas"),
        ("spec.replica", 2, "spec.replica: is not a field of this resource; did you mean replicas?"),
        ("spec.engine.device", "tpu", "spec.engine.device"),
        ("spec.engine.compute", "int4", "spec.engine.compute"),
        ("spec.engine.blockSize", 24, "spec.engine.blockSize"),
        ("spec.engine.maxBatchTokens", 8, "spec.engine.maxBatchTokens: must be at least maxRunning"),
        ("spec.engine.kvCacheMemory", "12 apples", "spec.engine.kvCacheMemory"),
        ("spec.engine.queueAgeing", float("nan"), "spec.engine.queueAgeing"),
        ("spec.engine.queueOrder", "lifo", "spec.engine.queueOrder"),
        ("spec.engine.threads", 0, "spec.engine.threads"),
        ("spec.engine.prefixCaching", "yes", "spec.engine.prefixCaching"),
        ("spec.resources.gpu", {"count": 17}, "spec.resources.gpu.count"),
        ("spec.resources.gpu", {}, "spec.resources.gpu: is set, but sim:// models use no GPU"),
        ("spec.modelCache", {"type": "pvc", "claimName": "c"}, "spec.modelCache"),
        ("spec.routing.policy", "random", "spec.routing.policy"),
        ("spec.rollout", {"maxSurge": 0, "maxUnavailable": 0}, "spec.rollout.maxSurge"),
        ("spec.drain.timeoutSeconds", 1e9, "spec.drain.timeoutSeconds"),
        ("spec.placement.nodeSelector", ["a"], "spec.placement.nodeSelector"),
        ("extra", 1, "extra: is not a field of this resource"),
    ],
)
def test_a_bad_field_is_refused_by_its_path(load, path, value, says):
    message = refusal(load, yaml.safe_dump(changed(path, value)))
    assert re.match(r"\S*file0.yaml, line [0-9]+: ", message)
    assert says in message
    assert "\n" not in message


def test_the_bad_document_is_counted(load):
    message = refusal(load, f"{GOOD}---\n{yaml.safe_dump(changed('spec.replicas', -1))}")
    assert "file0.yaml, document 2, line 16: spec.replicas" in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no InferenceDeployment in"),
        ("---\n---\n", "no InferenceDeployment in"),
        ("just text", "must be a mapping"),
        ("- a\n- b\n", "must be a mapping"),
        ("a: [1, 2", "line 1, column"),
        ("a: 1\n\tb: 2\n", "line 2, column 1: not YAML"),
        (GOOD + "  replicas: 1\n  replicas: 2\n", "the key 'replicas' is given twice"),
        (GOOD + "spec: {}\n", "the key 'spec' is given twice"),
        ("a: !!python/object/apply:os.system ['true']\n", "not YAML"),
        ("? [a, b]\n: c\n", "not YAML"),
        ("[" * 5000, "not YAML"),
        (b"\xff\xfe\x00", "not UTF-8"),
        ("a: \x07\n", "not YAML"),
        ("# " + "x" * 1_100_000, "is larger than"),
    ],
)
def test_what_is_no_resource_file(load, text, says):
    message = refusal(load, text)
    assert says in message
    assert "file0.yaml" in message


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(ResourceError, match=r"cannot be read: \w+"):
            resources.load([path])


def test_two_resources_with_one_served_name(load):
    other = changed("metadata.name", "n") | {"spec": {"model": {"uri": "sim://x", "servedName": "m"}}}
    message = refusal(load, GOOD, yaml.safe_dump(other))
    assert "file1.yaml, line 7: spec.model.servedName: 'm' is also served by the resource in" in message
    assert "file0.yaml" in message


def test_two_resources_with_one_name(load):
    message = refusal(load, GOOD, yaml.safe_dump(changed("spec.model.servedName", "other")))
    assert "file1.yaml, line 4: metadata.name: 'm' is also the name of the resource in" in message


def test_the_same_name_in_two_namespaces_is_fine(load):
    other = changed("metadata.namespace", "team")
    other["spec"]["model"]["servedName"] = "other"
    assert [i.resource.metadata.namespace for i in load(GOOD, yaml.safe_dump(other))] == ["default", "team"]


def test_all_faults_are_told_at_once_with_their_lines(load):
    bad = GOOD.replace("sim://m", "s3://x") + "  replicas: -1\n  adapters:\n  - name: a\n    uri: 7\n  colour: red\n"
    message = refusal(load, bad, f"{GOOD}---\n{GOOD}  replicas: x\n")
    lines = message.splitlines()
    assert lines[0] == "5 faults:"
    assert sorted(re.sub(r"^.*(file[01])", r"\1", line).split(": ")[0] for line in lines[1:]) == [
        "file0.yaml, line 11",
        "file0.yaml, line 12",
        "file0.yaml, line 7",
        "file0.yaml, line 8",
        "file1.yaml, document 2, line 16",
    ]
    fields = [line.split(": ")[1] for line in lines[1:]]
    assert fields == ["spec.model.uri", "spec.replicas", "spec.adapters[0].uri", "spec.colour", "spec.replicas"]


def test_broken_rules_are_all_told(load):
    engine = {"maxBatchTokens": 8, "kvCacheMemory": "1Gi"}
    message = refusal(load, yaml.safe_dump(good(engine=engine, modelCache={"type": "pvc"})))
    assert "spec.engine.maxBatchTokens: must be at least maxRunning" in message
    assert "spec.modelCache" in message


def test_objects_of_other_kinds_are_passed_over_with_a_note(capsys):
    """Files that kubectl takes: claims, Jobs and Secrets beside the resource."""
    (item,) = resources.load([EXAMPLES / "pvc.yaml"])
    assert item.resource.kind == "InferenceDeployment"
    assert "document" in item.origin
    said = capsys.readouterr().err
    assert all(f"{kind} is passed over" in said for kind in ("PersistentVolumeClaim", "Job"))
    with pytest.raises(ResourceError, match="no InferenceDeployment in"):
        resources.load([EXAMPLES / "hf-token.yaml"])
    assert "Secret is passed over" in capsys.readouterr().err


def test_a_folder_is_all_its_yaml_files(tmp_path):
    (tmp_path / "b.yaml").write_text(GOOD.replace("name: m", "name: b"))
    (tmp_path / "a.yml").write_text(GOOD)
    (tmp_path / "notes.txt").write_text("no YAML")
    assert [i.resource.metadata.name for i in resources.load([tmp_path])] == ["m", "b"]


def test_what_is_a_model_and_no_resource_is_told_how_to_be_served(tmp_path):
    model = tmp_path / "m.gguf"
    model.write_bytes(b"GGUF")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("{}")
    for path in (model, tmp_path / "folder", Path("smollm2")):
        with pytest.raises(ResourceError, match=f"`argosy serve {path}`"):
            resources.load([path])
