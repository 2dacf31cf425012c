"""The index checks itself: what it predicted, against what workers found."""

from router_kit import FakeWorker

from argosy_api.routes import IndexTruth, Routes
from argosy_router.routing.index_health import WINDOW_S, IndexHealth

PROMPT = "long enough for a few blocks of the cache, since one block is sixteen tokens, and a token a letter here"


def test_what_is_counted_and_for_how_long():
    health = IndexHealth()
    health.compared(predicted=100, found=60, now=0.0)
    health.compared(predicted=10, found=50, now=5.0)
    assert health.told(6.0) == IndexTruth(requests=2, predicted=110, found=110, missed=40, unforeseen=40)
    health.compared(predicted=1, found=1, now=WINDOW_S)
    assert health.told(WINDOW_S + 20).requests == 1
    assert health.told(3 * WINDOW_S) == IndexTruth()


async def ask(rig, prompt=PROMPT):
    answer, _ = await rig.post("/v1/completions", json={"model": "m", "prompt": prompt, "max_tokens": 2})
    assert answer.status == 200


async def told(rig) -> IndexTruth:
    async with rig.http.get(f"http://127.0.0.1:{rig.router.metrics_port}/routes") as answer:
        return Routes.parse(await answer.read()).deployments[0].index


async def test_a_true_index_misses_nothing_and_one_that_lies_is_found_out(make_rig):
    rig = await make_rig()
    worker = FakeWorker(worker_id="w0")
    await rig.add(worker)
    await rig.until_indexed()
    await ask(rig)
    await rig.until_indexed()
    await ask(rig)
    first = await told(rig)
    assert (first.requests, first.missed, first.unforeseen) == (2, 0, 0)
    assert first.predicted == first.found > 0
    worker.cached.clear()  # without a word
    await ask(rig)
    second = await told(rig)
    assert second.missed == first.predicted
    async with rig.http.get(f"http://127.0.0.1:{rig.router.metrics_port}/metrics") as answer:
        assert f'argosy_router_index_missed_tokens_total{{model="m"}} {second.missed:.1f}' in await answer.text()


async def test_a_cache_of_which_nothing_is_told_is_found_out(make_rig):
    rig = await make_rig()
    worker = FakeWorker(worker_id="w0")
    await rig.add(worker)
    await rig.until_indexed()
    worker.cached |= set(worker.ids(list(range(200))))
    answer, _ = await rig.post("/v1/completions", json={"model": "m", "prompt": list(range(200)), "max_tokens": 2})
    assert answer.status == 200
    found = await told(rig)
    assert found.unforeseen == found.found > 0
