"""What the router lets be scraped: its own series, and what it knows of its workers; who may, on which port."""

import re

from access_kit import Access, bearer
from router_kit import FakeWorker
from waiting import eventually

from argosy_router.exposition import merged

PAGE = """# HELP a_total What a is.
# TYPE a_total counter
a_total{{worker="{0}"}} {1}
# HELP process_open_fds Files.
# TYPE process_open_fds gauge
process_open_fds {1}
# HELP python_gc Gc.
# TYPE python_gc counter
python_gc{{generation="0"}} {1}
"""


def test_pages_become_one_with_each_family_once_and_each_sample_its_own():
    made = merged(
        [("", "# HELP b B.\n# TYPE b gauge\nb 1\n"), ("w0", PAGE.format("w0", 1)), ('w"1', PAGE.format("w1", 2))]
    )
    assert made.splitlines() == [
        "# HELP b B.", "# TYPE b gauge", "b 1",
        "# HELP a_total What a is.", "# TYPE a_total counter", 'a_total{worker="w0"} 1', 'a_total{worker="w1"} 2',
        "# HELP process_open_fds Files.", "# TYPE process_open_fds gauge",
        'process_open_fds{worker="w0"} 1', 'process_open_fds{worker="w\\"1"} 2',
        "# HELP python_gc Gc.", "# TYPE python_gc counter",
        'python_gc{worker="w0",generation="0"} 1', 'python_gc{worker="w\\"1",generation="0"} 2',
    ]  # fmt: skip
    assert merged([]) == ""


async def test_on_the_clients_port_they_are_for_admins_and_on_the_other_for_whoever_reaches_it(make_rig, tmp_path):
    access = Access(tmp_path, required=True)
    keys = {name: access.key(name, admin=name == "root") for name in ("root", "a")}
    rig = await make_rig(decision_headers=False, **access.settings)
    for headers, status in (({}, 401), (bearer(keys["a"]), 401), (bearer(keys["root"]), 200)):
        assert (await rig.get("/metrics", headers=headers))[0].status == status
    for path in ("/metrics", "/metrics/all"):
        async with rig.http.get(f"http://127.0.0.1:{rig.router.metrics_port}{path}") as answer:
            assert (answer.status, answer.content_type) == (200, "text/plain")


async def test_without_credentials_the_clients_port_has_them_only_where_decisions_are_told(make_rig):
    assert (await (await make_rig(decision_headers=False)).get("/metrics"))[0].status == 401


async def test_a_picker_finds_what_the_workers_of_a_deployment_report(make_rig):
    rig = await make_rig()
    first, second = FakeWorker(worker_id="w0"), FakeWorker(worker_id="w1")
    first.running, second.running = 2, 3
    await rig.add(first, second)

    async def told():
        _, body = await rig.get("/metrics")
        return dict(re.findall(r"^(vllm:[^ ]+) (.*)$", body.decode(), re.MULTILINE))

    wanted = {
        'vllm:num_requests_running{model_name="m"}': "5.0",
        'vllm:num_requests_waiting{model_name="m"}': "0.0",
        'vllm:kv_cache_usage_perc{model_name="m"}': "0.0",
    }

    async def there():
        return await told() == wanted

    await eventually(there, what="the reports")
    async with rig.http.get(f"http://127.0.0.1:{rig.router.metrics_port}/metrics") as answer:
        assert "vllm:" not in await answer.text()  # Prometheus has it from the workers


async def test_http_requests_are_counted_by_path_and_status_and_strangers_make_no_series(rig):
    await rig.post("/v1/completions", {"model": "m", "prompt": "hello", "max_tokens": 2})
    await rig.post("/v1/completions", {"model": "m", "prompt": "hello", "max_tokens": -1})
    for path in ("/nothing", "/else", "/health"):
        await rig.get(path)
    count = rig.router.metrics.registry.get_sample_value

    def counted(method, handler, status):
        return count("http_requests_total", {"method": method, "handler": handler, "status": status})

    assert counted("POST", "/v1/completions", "2xx") == 1
    assert counted("POST", "/v1/completions", "4xx") == 1
    assert counted("-", "-", "4xx") == 2
    assert counted("GET", "/health", "2xx") is None
