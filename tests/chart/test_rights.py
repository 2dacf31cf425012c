"""Rights that the operator must have: a kind that it watches and may not list stops all of it."""

import pytest
from rendered import one

from argosy_operator.store import WATCHED


@pytest.mark.parametrize("kind", ["ClusterRole", "Role"])
def test_every_kind_that_is_watched_may_be_listed_and_watched(render, kind):
    objects = render("namespaced-values.yaml") if kind == "Role" else render()
    roles = [i for i in objects if i["kind"] == kind and i["metadata"]["name"].endswith("argosy-operator")]
    assert roles
    needed = {(version.rpartition("/")[0], plural) for version, _, plural in WATCHED} | {
        ("serving.argosy.dev", "inferencedeployments")
    }
    for role in roles:
        given = {
            (group, name)
            for rule in role["rules"]
            if {"list", "watch"} <= set(rule["verbs"])
            for group in rule["apiGroups"]
            for name in rule["resources"]
        }
        assert needed - given == set()


def test_nodes_are_listed_only_by_an_operator_of_the_whole_cluster(render):
    assert any(
        "nodes" in rule["resources"] for rule in one(render(), "ClusterRole", "argosy-system-argosy-operator")["rules"]
    )
    roles = [i for i in render("namespaced-values.yaml") if i["kind"] == "Role"]
    assert not any("nodes" in rule["resources"] for role in roles for rule in role["rules"])
