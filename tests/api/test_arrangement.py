"""How ranks lie in pods."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_api import limits
from argosy_api.arrangement import MESSAGE, arrange, possible, share
from argosy_api.pipeline import Place

sizes = st.integers(1, limits.MAX_PIPELINE)


@given(tensor=sizes, pipeline=sizes, per_pod=sizes)
def test_each_rank_is_in_one_pod_and_pods_have_whole_stages_or_equal_parts_of_one(tensor, pipeline, per_pod):
    if not possible(tensor, pipeline, per_pod):
        with pytest.raises(ValueError, match="must divide tensor"):
            arrange(tensor, pipeline, per_pod)
        return
    found = arrange(tensor, pipeline, per_pod)
    pods = [found.ranks(pod) for pod in range(found.pods)]
    assert [rank for pod in pods for rank in pod] == list(range(tensor * pipeline))
    assert {len(pod) for pod in pods} == {per_pod}
    stages = [[Place(rank, pipeline, tensor).stage for rank in pod] for pod in pods]
    parts = {pod.count(stage) for pod in stages for stage in pod}
    assert parts == {min(tensor, per_pod)}  # of each stage that a pod has anything of, all or the same


@given(tensor=sizes, pipeline=sizes)
def test_pods_of_one_rank_and_a_pod_of_all_are_always_possible(tensor, pipeline):
    assert arrange(tensor, pipeline) == (tensor * pipeline, 1)
    assert arrange(tensor, pipeline, tensor * pipeline) == (1, tensor * pipeline)


@pytest.mark.parametrize(("tensor", "pipeline", "per_pod"), [(1, 1, 2), (3, 2, 2), (2, 3, 4), (2, 2, 8), (8, 1, 16)])
def test_what_does_not_divide_is_refused(tensor, pipeline, per_pod):
    with pytest.raises(ValueError) as caught:
        arrange(tensor, pipeline, per_pod)
    assert str(caught.value) == MESSAGE


@given(count=st.integers(1, 600), local=sizes)
def test_threads_are_divided_evenly_and_each_has_one(count, local):
    shares = [share(count, local, part) for part in range(local)]
    assert sum(shares) == max(count, local)
    assert max(shares) - min(shares) <= 1
