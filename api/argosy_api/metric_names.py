"""Names of all Prometheus metrics, so that dashboards, rules, autoscaling and tests use one spelling.

Labels: `model` is the served name, `worker` the worker's id. Units are in the names (seconds, tokens, blocks, bytes).
"""

# --- worker
WORKER_REQUESTS_RUNNING = "argosy_worker_requests_running"
WORKER_REQUESTS_WAITING = "argosy_worker_requests_waiting"
WORKER_REQUESTS = "argosy_worker_requests"  # counter: reason=stop|length|abort|error
WORKER_PROMPT_TOKENS = "argosy_worker_prompt_tokens"  # counter
WORKER_CACHED_TOKENS = "argosy_worker_cached_prompt_tokens"  # counter
WORKER_COMPUTED_TOKENS = "argosy_worker_computed_prompt_tokens"  # counter
WORKER_GENERATED_TOKENS = "argosy_worker_generated_tokens"  # counter
WORKER_PREEMPTIONS = "argosy_worker_preemptions"  # counter
WORKER_BLOCKS = "argosy_worker_kv_blocks"  # gauge: state=free|cached|used
WORKER_HOST_BLOCKS = "argosy_worker_kv_host_blocks"  # gauge: state=free|cached
WORKER_HOST_MOVES = "argosy_worker_kv_host_moved_blocks"  # counter: to=host|device (evicted, restored)
WORKER_HOST_SECONDS = "argosy_worker_kv_host_seconds"  # counter: of the steps' time, for these copies
WORKER_STEP_SECONDS = "argosy_worker_step_seconds"  # histogram
WORKER_STEP_TOKENS = "argosy_worker_step_tokens"  # histogram
WORKER_TTFT_SECONDS = "argosy_worker_time_to_first_token_seconds"  # histogram
WORKER_ITL_SECONDS = "argosy_worker_inter_token_latency_seconds"  # histogram
WORKER_QUEUE_SECONDS = "argosy_worker_queue_seconds"  # histogram
WORKER_REQUEST_SECONDS = "argosy_worker_request_seconds"  # histogram, as the next five; of requests that ended well
WORKER_PREFILL_SECONDS = "argosy_worker_prefill_seconds"  # from admission to the first token
WORKER_DECODE_SECONDS = "argosy_worker_decode_seconds"  # from the first token to the last one
WORKER_TOKEN_SECONDS = "argosy_worker_time_per_output_token_seconds"  # mean of a request, after its first token
WORKER_PROMPT_LENGTH = "argosy_worker_request_prompt_tokens"
WORKER_ANSWER_LENGTH = "argosy_worker_request_generated_tokens"
WORKER_KV_USED = "argosy_worker_kv_used_ratio"  # gauge, 0 to 1: blocks that running requests hold
WORKER_KV_INFO = "argosy_worker_kv_cache_info"  # gauge, 1: block_size in tokens, blocks
WORKER_PREFILL_RATE = "argosy_worker_prefill_tokens_per_second"  # gauge
WORKER_DRAFTS = "argosy_worker_drafts"  # counter: guesses ahead, one for each request and step that had one
WORKER_DRAFTED_TOKENS = "argosy_worker_drafted_tokens"  # counter
WORKER_ACCEPTED_TOKENS = "argosy_worker_accepted_draft_tokens"  # counter
WORKER_ACCEPTED_LENGTH = "argosy_worker_accepted_draft_length_tokens"  # gauge: mean of the latest drafts
WORKER_SPECULATION_SAVED = "argosy_worker_speculation_saved_seconds"  # gauge: sum since the start, losses taken off
WORKER_BLOCKS_EXPORTED = "argosy_worker_kv_blocks_exported"  # counter: to other workers
WORKER_BLOCKS_IMPORTED = "argosy_worker_kv_blocks_imported"  # counter: from other workers
WORKER_IMPORTS = "argosy_worker_kv_imports"  # counter: result=whole|part|failed|refused
WORKER_TRANSFER_RATE = "argosy_worker_kv_transfer_bytes_per_second"  # gauge
WORKER_EVENTS_DROPPED = "argosy_worker_kv_event_batches_dropped"  # counter
WORKER_REDIS_UP = "argosy_worker_redis_up"  # gauge
WORKER_LAST_STEP_AGE = "argosy_worker_last_step_age_seconds"  # gauge

# --- router
ROUTER_REQUESTS = "argosy_router_requests"  # counter: model, api=grpc|http, code
ROUTER_UNAUTHENTICATED = "argosy_router_unauthenticated"  # counter: api=grpc|http; refused for their credential
ROUTER_PICKS = "argosy_router_picks"  # counter: result=picked|any, or the status of a refusal
ROUTER_SHED = "argosy_router_shed_requests"  # counter: model, why=contended|quota
ROUTER_LINE = "argosy_router_line_answers"  # gauge: model; wait in the router for their turn
ROUTER_TENANT_TOKENS = "argosy_router_tenant_tokens"  # counter: tenant, kind=prompt|cached|generated
ROUTER_TENANT_REQUESTS = "argosy_router_tenant_requests"  # counter: tenant, code
ROUTER_INFLIGHT = "argosy_router_requests_in_flight"  # gauge: model
ROUTER_TTFT_SECONDS = "argosy_router_time_to_first_token_seconds"  # histogram: model
ROUTER_DURATION_SECONDS = "argosy_router_request_seconds"  # histogram: model
ROUTER_ADDED_SECONDS = "argosy_router_added_seconds"  # histogram: time in the router before a worker is called
ROUTER_RETRIES = "argosy_router_retries"  # counter: model, why
ROUTER_RESUMED = "argosy_router_resumed_streams"  # counter: model, why (the worker was lost)
ROUTER_RESUME_GAP_SECONDS = "argosy_router_resume_gap_seconds"  # histogram: model; from the last token to the next one
ROUTER_HUNG = "argosy_router_hung_attempts"  # counter: model
ROUTER_QUARANTINED = "argosy_router_quarantined_requests"  # counter: model
ROUTER_PREFILLS = "argosy_router_prefills"  # counter: model, result=done|failed
ROUTER_DECISIONS = "argosy_router_decisions"  # counter: model, policy, reason
ROUTER_PREDICTED_CACHED_TOKENS = "argosy_router_predicted_cached_tokens"  # counter: model
ROUTER_CACHED_TOKENS = "argosy_router_cached_tokens"  # counter: model (what the workers found)
ROUTER_MISSED_TOKENS = "argosy_router_index_missed_tokens"  # counter: model; the index said they were cached
ROUTER_UNFORESEEN_TOKENS = "argosy_router_index_unforeseen_tokens"  # counter: model; cached, and the index did not know
ROUTER_PROMPT_TOKENS = "argosy_router_prompt_tokens"  # counter: model
ROUTER_GENERATED_TOKENS = "argosy_router_generated_tokens"  # counter: model
ROUTER_INDEX_BLOCKS = "argosy_router_index_blocks"  # gauge: model
ROUTER_INDEX_REPAIRS = "argosy_router_index_repairs"  # counter: model, why=gap|epoch|trimmed|reconnect|start
ROUTER_REDIS_UP = "argosy_router_redis_up"  # gauge
ROUTER_MEMBERSHIP_UP = "argosy_router_membership_up"  # gauge, 0 or 1
ROUTER_LOOP_BURST = "argosy_router_loop_burst_seconds"  # histogram: processor time between two turns of the event loop
ROUTER_TASKS = "argosy_router_tasks"  # gauge: of the event loop; grows with requests, and shrinks with them
ROUTER_HELD_BYTES = "argosy_router_held_bytes"  # gauge: of requests' bodies, prompts and collected answers
ROUTER_WORKERS = "argosy_router_workers"  # gauge: model, state=ready|standby|ejected|terminating
HTTP_REQUESTS = "http_requests"  # counter: method, handler (the path's pattern), status=2xx|4xx|5xx; no probes
HTTP_SECONDS = "http_request_duration_seconds"  # histogram: method, handler; the streamed answer included

# --- operator
OPERATOR_PASSES = "argosy_operator_reconcile_passes"  # counter: result
OPERATOR_PASS_SECONDS = "argosy_operator_reconcile_seconds"  # histogram
OPERATOR_RESOURCES = "argosy_operator_resources"  # gauge: ready=true|false
OPERATOR_LEADER = "argosy_operator_leader"  # gauge: 1 while this process is the one that operates
OPERATOR_LEADER_TERMS = "argosy_operator_leader_terms"  # counter: how often it became that
OPERATOR_REDIS_USERS_UP = "argosy_operator_redis_users_up"  # gauge: 1 while workers' Redis users are as they should be
OPERATOR_WANTED_REPLICAS = "argosy_operator_wanted_replicas"  # gauge: namespace, name; with autoscaling
OPERATOR_SCALING_SIGNALS = "argosy_operator_scaling_signals"  # gauge: namespace, name, signal
OPERATOR_SCALING_DECISIONS = "argosy_operator_scaling_decisions"  # counter: reason
OPERATOR_LAST_PASS_AGE = "argosy_operator_last_pass_age_seconds"  # gauge

# --- bounds of histograms: router and worker have the same, so that panels can lay one over the other. The bounds that
# vLLM's dashboards choose from (0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 10) are among them.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 10, 30, 60, 120, 300)
GAPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.5, 0.75, 1, 2.5, 5)
LENGTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)

# --- vLLM's names for what an engine tells, which public dashboards and the Inference Extension's picker ask for; the
# label is model_name. Workers have all of them (argosy_worker.serve.vllm_names), routers these, for a whole deployment.
VLLM_RUNNING = "vllm:num_requests_running"
VLLM_WAITING = "vllm:num_requests_waiting"
VLLM_KV_USED = "vllm:kv_cache_usage_perc"
