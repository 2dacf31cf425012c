"""What the condition KVIndexHealthy says, and that it changes seldom."""

import pytest

from argosy_api.membership import RoutingPolicy
from argosy_api.routes import DeploymentRoutes, IndexTruth, Routes
from argosy_operator.kv_index import judge, together
from argosy_operator.routers import by_resource, judged


def truth(**numbers):
    return IndexTruth(**{"requests": 100, "predicted": 50_000, "found": 50_000, **numbers})


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        (truth(), ("True", "Indexed")),
        (truth(missed=9_000, found=41_000), ("True", "Indexed")),
        (truth(missed=11_000, found=39_000), ("False", "PredictionsMissed")),
        (truth(predicted=20_000, unforeseen=30_000), ("False", "IndexBlind")),
        (truth(predicted=0, unforeseen=50_000), ("False", "IndexBlind")),  # no event ever came
        (truth(predicted=30_000, unforeseen=20_000), ("True", "Indexed")),
        (truth(predicted=100, found=100, missed=100), ("Unknown", "NotObserved")),
        (IndexTruth(), ("Unknown", "NotObserved")),
    ],
)
def test_what_is_said(said, verdict):
    assert judge(said)[:2] == verdict


def test_the_message_changes_with_the_verdict_alone():
    assert judge(truth()) == judge(truth(requests=101, predicted=50_100, found=50_090, missed=10))
    assert judge(truth(missed=20_000)) == judge(truth(missed=21_000, requests=7))


def routes(index):
    return DeploymentRoutes(
        namespace="default", name="m", served_name="m", policy=RoutingPolicy.KV_AWARE, workers=(), index=index
    )


def test_all_routers_together():
    assert together([]) is None
    assert together([routes(None)]) is None
    good, bad = routes(truth()), routes(truth(predicted=10_000, found=0, missed=10_000))
    assert together([good, bad])[0] == "True"
    assert together([bad, good, bad])[:2] == ("False", "PredictionsMissed")


def test_from_a_routers_words():
    said = Routes.parse(Routes((routes(truth(missed=30_000)),)).to_json())
    assert judged([by_resource(said)])[("default", "m")][:2] == ("False", "PredictionsMissed")


def test_an_older_router_says_nothing_of_it():
    body = Routes((routes(truth()),)).to_json().replace('"index"', '"something"')
    assert judged([by_resource(Routes.parse(body))]) == {}
