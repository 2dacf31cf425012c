"""Which series public dashboards and pickers ask for: names alone, looked up in November 2026.

From vllm-project/vllm, examples/observability: prometheus_grafana/grafana.json (the first 15), and
dashboards/grafana/vllm_overview.json (what it asks for beside them, without the caches that only connectors and models of
pictures have); and from the Gateway API Inference Extension's model server protocol (the last one, and three of the first).
"""

from prometheus_client.parser import text_string_to_metric_families


def count(values):
    return min(values) >= 0


def some(values):
    return count(values) and max(values) > 0


def share(values):
    return count(values) and max(values) <= 1


FACTS = {
    "vllm:e2e_request_latency_seconds_bucket": some,
    "vllm:prompt_tokens_total": some,
    "vllm:generation_tokens_total": some,
    "vllm:inter_token_latency_seconds_bucket": some,
    "vllm:num_requests_running": count,
    "vllm:num_requests_waiting": count,
    "vllm:time_to_first_token_seconds_bucket": some,
    "vllm:kv_cache_usage_perc": share,
    "vllm:request_prompt_tokens_bucket": some,
    "vllm:request_generation_tokens_bucket": some,
    "vllm:request_success_total": some,
    "vllm:request_queue_time_seconds_sum": count,
    "vllm:request_prefill_time_seconds_sum": some,
    "vllm:request_decode_time_seconds_sum": some,
    "vllm:request_max_num_generation_tokens_sum": some,
    "http_requests_total": some,
    "http_request_duration_seconds_sum": some,
    "vllm:num_preemptions_total": count,
    "vllm:prefix_cache_hits_total": some,
    "vllm:prefix_cache_queries_total": some,
    "vllm:request_time_per_output_token_seconds_bucket": some,
    "vllm:num_requests_waiting_by_reason": count,
    "vllm:iteration_tokens_total_bucket": some,
    "vllm:prompt_tokens_by_source_total": count,
    "vllm:cache_config_info": some,
}
"""What the values may be after some requests, of all workers together."""


def scraped(text):
    """Samples by family. Prometheus wants each family told once, and all its samples behind its name."""
    families = list(text_string_to_metric_families(text))
    named = [family.name for family in families]
    assert len(named) == len(set(named))
    return {family.name: family.samples for family in families}


def of(families, name):
    return [sample for samples in families.values() for sample in samples if sample.name == name]
