{{/* All alerts, with what is set in metrics.prometheusRule. docs/operations.md says what to do about each. */}}
{{- define "argosy.alerts" -}}
{{- $rule := .Values.metrics.prometheusRule }}
{{- $model := "{{ $labels.model }}" }}
{{- $pod := "{{ $labels.namespace }}/{{ $labels.pod }}" }}
alerts:
  - alert: ArgosyNoWorkers
    # Where nobody asks there may be none: spec.autoscaling.minReplicas may be 0.
    expr: |-
      sum by (model) (argosy_router_workers{state="ready"}) == 0
      and on (model) (
        sum by (model) (argosy_router_requests_in_flight) > 0
        or sum by (model) (rate(argosy_router_requests_total{code="UNAVAILABLE"}[5m])) > 0
      )
    for: 2m
    labels: {severity: critical}
    annotations: {summary: "No worker serves {{ $model }}, and requests for it wait or fail"}
  - alert: ArgosyNoRouter
    expr: absent(argosy_router_membership_up)
    for: 2m
    labels: {severity: critical}
    annotations: {summary: "No router is there: no request is served"}
  - alert: ArgosyErrors
    expr: |-
      sum by (model) (rate(argosy_router_requests_total{code=~"UNAVAILABLE|INTERNAL|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED"}[5m]))
      / sum by (model) (rate(argosy_router_requests_total[5m])) > {{ $rule.errorRatio }}
    for: 5m
    labels: {severity: critical}
    annotations: {summary: "Of the requests for {{ $model }} more than {{ $rule.errorRatio }} fail, and not by their own fault"}
  {{- if $rule.firstTokenSeconds }}
  - alert: ArgosySlowFirstToken
    expr: histogram_quantile(0.99, sum by (model, le) (rate(argosy_router_time_to_first_token_seconds_bucket[5m]))) > {{ $rule.firstTokenSeconds }}
    for: 10m
    labels: {severity: warning}
    annotations: {summary: "One of a hundred requests for {{ $model }} waits longer than {{ $rule.firstTokenSeconds }} s for its first token"}
  {{- end }}
  - alert: ArgosyRequestsWait
    expr: min_over_time(argosy_worker_requests_waiting[10m]) > 0
    for: 5m
    labels: {severity: warning}
    annotations: {summary: "Requests for {{ $model }} have waited at a worker for minutes: there are too few replicas"}
  - alert: ArgosyPreemptions
    expr: sum by (model) (rate(argosy_worker_preemptions_total[15m])) > 0.1
    for: 30m
    labels: {severity: info}
    annotations: {summary: "Requests for {{ $model }} are computed again and again: the KV cache is too small for engine.maxRunning"}
  - alert: ArgosyWorkerHangs
    expr: argosy_worker_last_step_age_seconds > 60
    for: 1m
    labels: {severity: warning}
    annotations: {summary: "The engine of {{ $pod }} has not come around for a minute"}
  - alert: ArgosyRouterBlocked
    expr: histogram_quantile(0.99, sum by (namespace, pod, le) (rate(argosy_router_loop_burst_seconds_bucket[5m]))) > 0.1
    for: 10m
    labels: {severity: warning}
    annotations: {summary: "In {{ $pod }} single requests hold up the others"}
  - alert: ArgosyRouterFull
    expr: argosy_router_held_bytes > 0.9 * 256 * 1024 * 1024
    for: 1m
    labels: {severity: warning}
    annotations: {summary: "Requests hold almost all the memory that {{ $pod }} gives them: more are refused"}
  - alert: ArgosyRouterBlind
    expr: argosy_router_membership_up == 0
    for: 5m
    labels: {severity: warning}
    annotations: {summary: "The router {{ $pod }} does not hear from the API server: it goes on with the workers that it knew last"}
  - alert: ArgosyResourceNotReady
    expr: argosy_operator_resources{ready="false"} > 0
    for: 15m
    labels: {severity: warning}
    annotations: {summary: "InferenceDeployments have not been ready for a quarter of an hour: kubectl get infd -A says why"}
  - alert: ArgosyNoOperator
    expr: absent(argosy_operator_last_pass_age_seconds)
    for: 5m
    labels: {severity: warning}
    annotations: {summary: "The operator is not there: requests go on, and changes of resources have no effect"}
  - alert: ArgosyNoLeader
    expr: sum(argosy_operator_leader) == 0
    for: 5m
    labels: {severity: warning}
    annotations: {summary: "Operators are there, and none of them has the lease: changes of resources have no effect"}
  - alert: ArgosyOperatorStuck
    # each resource is looked at every six minutes at least
    expr: argosy_operator_last_pass_age_seconds > 420
    for: 2m
    labels: {severity: warning}
    annotations: {summary: "The operator has finished no pass for seven minutes: changes of resources have no effect"}
  - alert: ArgosyAutoscalingBlind
    expr: argosy_operator_scaling_signals{signal="complete"} == 0
    for: 10m
    labels: {severity: warning}
    annotations: {summary: "Not all routers tell what {{ "{{ $labels.namespace }}/{{ $labels.name }}" }} is asked: its number of workers stays"}
  {{- if include "argosy.redisSecret" . }}
  - alert: ArgosyRedisDown
    expr: max(argosy_router_redis_up) == 0
    for: 5m
    labels: {severity: warning}
    annotations: {summary: "No router reaches Redis: requests are served, with fewer cache hits"}
  {{- if eq .Values.redis.access "perNamespace" }}
  - alert: ArgosyRedisUsers
    expr: argosy_operator_redis_users_up == 0
    for: 5m
    labels: {severity: warning}
    annotations: {summary: "Workers cannot log in to Redis: the operator's log says why. Requests are served, with fewer cache hits"}
  {{- end }}
  {{- end }}
{{- end -}}
