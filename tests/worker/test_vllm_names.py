"""Dashboards of vLLM's find their series, with values of the traffic that there was."""

import re

import pytest

from argosy_worker.core.request import Finish
from argosy_worker.engine.metrics import WorkerMetrics
from argosy_worker.engine.report import LoadView
from argosy_worker.serve.vllm_names import exposition


class Engine:
    view = LoadView(total_blocks=40, used_blocks=10, free_blocks=30, running=2, waiting=3)
    alive, busy, last_step_age = True, True, 0.0


@pytest.fixture
def page():
    metrics = WorkerMetrics(model="m", worker="w")
    metrics.watch(Engine(), block_size=16)
    metrics.step(0.02, tokens=100, preempted=1)
    metrics.first_token(queued_s=0.3, ttft_s=0.7, prompt_tokens=100, cached_tokens=64)
    metrics.next_tokens(0.06, 2)
    metrics.finished(Finish.LENGTH)
    metrics.whole(took_s=0.82, prefill_s=0.4, decode_s=0.12, prompt_tokens=100, tokens=3)
    return exposition(metrics.registry).decode()


def test_each_series_has_the_value_of_ours(page):
    values = dict(re.findall(r"^(vllm:[^ ]+) (.*)$", page, re.MULTILINE))
    mine = '{model_name="m",worker="w"}'
    assert {
        f"vllm:num_requests_running{mine}": "2.0",
        f"vllm:num_requests_waiting{mine}": "3.0",
        f"vllm:kv_cache_usage_perc{mine}": "0.25",
        'vllm:cache_config_info{block_size="16",model_name="m",num_gpu_blocks="40",worker="w"}': "1.0",
        f"vllm:prompt_tokens_total{mine}": "100.0",
        f"vllm:generation_tokens_total{mine}": "3.0",
        f"vllm:prefix_cache_queries_total{mine}": "100.0",
        f"vllm:prefix_cache_hits_total{mine}": "64.0",
        'vllm:prompt_tokens_by_source_total{model_name="m",source="local_compute",worker="w"}': "36.0",
        'vllm:prompt_tokens_by_source_total{model_name="m",source="local_cache_hit",worker="w"}': "64.0",
        'vllm:request_success_total{finished_reason="length",model_name="m",worker="w"}': "1.0",
        f"vllm:num_preemptions_total{mine}": "1.0",
        f"vllm:iteration_tokens_total_sum{mine}": "100.0",
        f"vllm:time_to_first_token_seconds_sum{mine}": "0.7",
        f"vllm:e2e_request_latency_seconds_sum{mine}": "0.82",
        f"vllm:request_queue_time_seconds_sum{mine}": "0.3",
        f"vllm:request_prefill_time_seconds_sum{mine}": "0.4",
        f"vllm:request_time_per_output_token_seconds_sum{mine}": "0.06",
        f"vllm:request_max_num_generation_tokens_sum{mine}": "3.0",
    }.items() <= values.items()


@pytest.mark.parametrize("bound", ["0.1", "0.25", "0.5", "0.75", "1.0", "2.5", "5.0", "10.0"])
def test_the_bounds_that_vllms_dashboard_chooses_from_are_there(page, bound):
    """Its panels of objectives compare `le` as text."""
    (value,) = re.findall(rf'time_to_first_token_seconds_bucket{{le="{bound}",model_name.*}} (.*)', page)
    assert float(value) == (float(bound) >= 0.7)


def test_each_family_is_told_once(page):
    told = re.findall(r"^# TYPE (\S+)", page, re.MULTILINE)
    assert len(told) == len(set(told))
    assert "_created" not in page
