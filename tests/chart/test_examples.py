"""Every object in deploy/examples is what Kubernetes, or our own definition, takes."""

from pathlib import Path

import kube_models
import pytest
import yaml

from argosy_api import quantity, resource
from argosy_api.externalscaler import externalscaler_pb2 as pb
from argosy_operator.external import figures
from argosy_operator.external.documents import LABEL
from argosy_operator.external.keda import Trigger

EXAMPLES = Path(__file__).resolve().parents[2] / "deploy/examples"
PATHS = sorted(EXAMPLES.glob("*.yaml"))


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_object_is_what_its_kind_says(path):
    found = documents(path)
    assert found
    for document in found:
        if document["kind"] == "InferenceDeployment":
            assert resource.parse(document).metadata.name == document["metadata"]["name"]
        elif document["kind"] != "ScaledObject":  # KEDA's, below
            assert kube_models.is_built_in(document), document["kind"]
            kube_models.check(document)
    keys = [(d["kind"], d["metadata"].get("namespace"), d["metadata"]["name"]) for d in found]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_file_says_what_it_is_for(path):
    assert path.read_text().startswith("# ")


def test_served_names_within_a_file_are_nobody_elses():
    for path in PATHS:
        names = [
            document["spec"]["model"].get("servedName", document["metadata"]["name"])
            for document in documents(path)
            if document["kind"] == "InferenceDeployment"
        ]
        assert len(names) == len(set(names)), path.name


def test_metrics_of_the_autoscaler_are_those_that_the_operator_serves():
    (hpa,) = [document for document in documents(EXAMPLES / "hpa.yaml") if "Autoscaler" in document["kind"]]
    for metric in hpa["spec"]["metrics"]:
        asked = metric["external"]["metric"]
        assert asked["name"] in figures.FIGURES
        assert asked["selector"] == {"matchLabels": {LABEL: hpa["spec"]["scaleTargetRef"]["name"]}}
        assert quantity.parse(metric["external"]["target"]["averageValue"]) > 0


def test_triggers_are_understood_by_the_scaler_and_lead_to_it(render):
    (scaled,) = [document for document in documents(EXAMPLES / "keda.yaml") if document["kind"] == "ScaledObject"]
    service = {i["metadata"]["name"]: i for i in render("kedaScaler.enabled=true") if i["kind"] == "Service"}
    for trigger in scaled["spec"]["triggers"]:
        assert trigger["type"] in ("external", "external-push")
        metadata = trigger["metadata"]
        found = Trigger.of(pb.ScaledObjectRef(name="x", namespace="default", scalerMetadata=metadata))
        assert found.deployment == scaled["spec"]["scaleTargetRef"]["name"]
        host, port = metadata["scalerAddress"].split(":")
        assert host.split(".")[1:] == ["argosy-system", "svc"]
        assert service[host.split(".")[0]]["spec"]["ports"][0]["port"] == int(port)


@pytest.mark.parametrize("name", ["hpa", "keda"])
def test_what_an_autoscaler_writes_the_example_does_not(name):
    found = {document["kind"]: document for document in documents(EXAMPLES / f"{name}.yaml")}
    scaler = next(document for kind, document in found.items() if kind != "InferenceDeployment")
    target = scaler["spec"]["scaleTargetRef"]
    model = found["InferenceDeployment"]
    expected = {"apiVersion": model["apiVersion"], "kind": model["kind"], "name": model["metadata"]["name"]}
    assert target == expected
    assert not {"replicas", "autoscaling"} & set(model["spec"])


def test_tenants_have_the_same_and_nothing_of_each_other():
    by_team = {}
    for document in documents(EXAMPLES / "tenants.yaml"):
        team = document["metadata"].get("namespace", document["metadata"]["name"])
        by_team.setdefault(team, []).append(document)
    assert len({tuple(d["kind"] for d in found) for found in by_team.values()}) == 1
    for team, found in by_team.items():
        for other in set(by_team) - {team}:
            assert other not in yaml.safe_dump(found)
