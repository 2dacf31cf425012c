"""The metrics of a worker under vLLM's names too, for dashboards and pickers that ask for those. Pure.

Made of our own series when somebody scrapes, so they cost a token nothing. What vLLM tells and we have nothing of
(caches of other engines, of pictures) is not made up.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import generate_latest

from argosy_api import metric_names as names


@dataclass(frozen=True, slots=True)
class _Alias:
    ours: str
    theirs: str
    labels: dict[str, str] = field(default_factory=dict)
    """Ours to theirs, beside the model's."""
    more: dict[str, str] = field(default_factory=dict)
    """What only theirs has."""


_ALIASES = (
    _Alias(names.WORKER_REQUESTS_RUNNING, names.VLLM_RUNNING),
    _Alias(names.WORKER_REQUESTS_WAITING, names.VLLM_WAITING),
    _Alias(names.WORKER_REQUESTS_WAITING, "vllm:num_requests_waiting_by_reason", more={"reason": "capacity"}),
    _Alias(names.WORKER_KV_USED, names.VLLM_KV_USED),
    _Alias(names.WORKER_KV_USED, "vllm:gpu_cache_usage_perc"),  # its name before 2025
    _Alias(names.WORKER_KV_INFO, "vllm:cache_config_info", labels={"blocks": "num_gpu_blocks"}),
    _Alias(names.WORKER_REQUESTS, "vllm:request_success", labels={"reason": "finished_reason"}),
    _Alias(names.WORKER_PROMPT_TOKENS, "vllm:prompt_tokens"),
    _Alias(names.WORKER_GENERATED_TOKENS, "vllm:generation_tokens"),
    _Alias(names.WORKER_PROMPT_TOKENS, "vllm:prefix_cache_queries"),
    _Alias(names.WORKER_CACHED_TOKENS, "vllm:prefix_cache_hits"),
    _Alias(names.WORKER_CACHED_TOKENS, "vllm:prompt_tokens_by_source", more={"source": "local_cache_hit"}),
    _Alias(names.WORKER_COMPUTED_TOKENS, "vllm:prompt_tokens_by_source", more={"source": "local_compute"}),
    _Alias(names.WORKER_PREEMPTIONS, "vllm:num_preemptions"),
    _Alias(names.WORKER_STEP_TOKENS, "vllm:iteration_tokens_total"),
    _Alias(names.WORKER_TTFT_SECONDS, "vllm:time_to_first_token_seconds"),
    _Alias(names.WORKER_ITL_SECONDS, "vllm:inter_token_latency_seconds"),
    _Alias(names.WORKER_ITL_SECONDS, "vllm:time_per_output_token_seconds"),  # its name before 2025
    _Alias(names.WORKER_TOKEN_SECONDS, "vllm:request_time_per_output_token_seconds"),
    _Alias(names.WORKER_REQUEST_SECONDS, "vllm:e2e_request_latency_seconds"),
    _Alias(names.WORKER_QUEUE_SECONDS, "vllm:request_queue_time_seconds"),
    _Alias(names.WORKER_PREFILL_SECONDS, "vllm:request_prefill_time_seconds"),
    _Alias(names.WORKER_DECODE_SECONDS, "vllm:request_decode_time_seconds"),
    _Alias(names.WORKER_PROMPT_LENGTH, "vllm:request_prompt_tokens"),
    _Alias(names.WORKER_ANSWER_LENGTH, "vllm:request_generation_tokens"),
    # each choice is a request of its own here, so the longest one of a request is the one that there is
    _Alias(names.WORKER_ANSWER_LENGTH, "vllm:request_max_num_generation_tokens"),
)


def aliases(families: Iterable[Metric]) -> list[Metric]:
    """The same series once more, under vLLM's names."""
    known = {family.name: family for family in families}
    made: dict[str, Metric] = {}
    for alias in _ALIASES:
        if alias.ours in known:
            _add(made, known[alias.ours], alias)
    return list(made.values())


def exposition(registry: CollectorRegistry) -> bytes:
    """All series of a worker, in Prometheus' text format.

    Always in that one: in OpenMetrics a colon in a name does not survive.
    """
    families = list(registry.collect())
    return generate_latest(_Collected([*families, *aliases(families)]))


class _Collected:
    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _add(made: dict[str, Metric], family: Metric, alias: _Alias) -> None:
    into = made.setdefault(alias.theirs, Metric(alias.theirs, family.documentation, family.type))
    renamed = {"model": "model_name", **alias.labels}
    for sample in family.samples:
        labels = {renamed.get(key, key): value for key, value in sample.labels.items()}
        into.add_sample(alias.theirs + sample.name.removeprefix(family.name), labels | alias.more, sample.value)
