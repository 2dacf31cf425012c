"""Two operators: on two nodes, and never both taken at once by nodes that are drained."""

import pytest


@pytest.mark.parametrize("replicas", [1, 2])
def test_several_operators_are_spread_and_drained_one_at_a_time(render, replicas):
    objects = render(f"operator.replicas={replicas}")
    [deployment] = (
        o["spec"] for o in objects if (o["kind"], o["metadata"]["name"]) == ("Deployment", "argosy-operator")
    )
    budgets = [item for item in objects if item["kind"] == "PodDisruptionBudget"]
    constraints = deployment["template"]["spec"].get("topologySpreadConstraints", [])
    assert [b["metadata"]["name"] for b in budgets] == ["argosy-operator"] * (replicas - 1)
    assert [c["topologyKey"] for c in constraints] == ["kubernetes.io/hostname"] * (replicas - 1)
    for budget in budgets:
        assert budget["spec"]["maxUnavailable"] == 1
        assert budget["spec"]["selector"] == deployment["selector"]
    for constraint in constraints:
        assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"  # on one node, too, they are better than one
        assert constraint["labelSelector"] == deployment["selector"]
