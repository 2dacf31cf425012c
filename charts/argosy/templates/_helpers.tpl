{{- define "argosy.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Release and chart name, once if they are the same; 40 characters leave room for what is appended. */}}
{{- define "argosy.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "argosy.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "argosy.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Argument: dict "root" $ "component" "router" */}}
{{- define "argosy.selectorLabels" -}}
app.kubernetes.io/name: {{ include "argosy.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "argosy.labels" -}}
{{ include "argosy.selectorLabels" . }}
app.kubernetes.io/part-of: argosy
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Argument: dict "root" $ "image" .Values.router.image */}}
{{- define "argosy.image" -}}
{{- $name := .image.repository -}}
{{- with .root.Values.image.registry }}{{ $name = printf "%s/%s" . $name }}{{ end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .root.Chart.AppVersion .image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "argosy.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "argosy.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where pods go. Argument: dict "root" $ "component" .Values.router */}}
{{- define "argosy.placement" -}}
{{- with .component.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
tolerations:
  {{- /* Kubernetes waits 300 s by default before it replaces pods of a node that does not answer. */}}
  {{- range list "not-ready" "unreachable" }}
  - {key: node.kubernetes.io/{{ . }}, operator: Exists, effect: NoExecute, tolerationSeconds: {{ $.root.Values.nodeFailureSeconds }}}
  {{- end }}
  {{- with .component.tolerations }}{{ toYaml . | nindent 2 }}{{ end }}
{{- with .component.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .component.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{- define "argosy.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* The Secret that holds the URL of Redis, and its key; empty: there is no Redis. */}}
{{- define "argosy.redisSecret" -}}
{{- if .Values.valkey.enabled -}}
{{- default (printf "%s-valkey" (include "argosy.fullname" .)) .Values.valkey.existingSecret -}}
{{- else if .Values.redis.existingSecret.name -}}
{{- .Values.redis.existingSecret.name -}}
{{- else if .Values.redis.url -}}
{{- printf "%s-redis" (include "argosy.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/* In that Secret, the key of the operator's URL, and the key of the routers'. */}}
{{- define "argosy.redisKey" -}}
{{- if or .Values.valkey.enabled (not .Values.redis.existingSecret.name) -}}url{{- else -}}{{ .Values.redis.existingSecret.key }}{{- end -}}
{{- end -}}
{{- define "argosy.redisRouterKey" -}}
{{- if eq .Values.redis.access "shared" -}}
{{- include "argosy.redisKey" . -}}
{{- else if or .Values.valkey.enabled (not .Values.redis.existingSecret.name) -}}
router-url
{{- else -}}
{{ .Values.redis.existingSecret.routerKey }}
{{- end -}}
{{- end -}}

{{/* Argument: dict "root" $ "variable" "ARGOSY_REDIS_URL" "key" "url" */}}
{{- define "argosy.redisEnv" -}}
{{- with include "argosy.redisSecret" .root }}
- name: {{ $.variable }}
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $.key }}
{{- end }}
{{- end -}}

{{/* Of pods that read redis.url when they start: a new one must replace them. */}}
{{- define "argosy.redisChecksum" -}}
{{- if and (not .Values.valkey.enabled) .Values.redis.url -}}
checksum/redis: {{ sha256sum (include "argosy.redisUrl" .) }}
{{- end -}}
{{- end -}}

{{/* Argument: dict "root" $ "login" ":password" */}}
{{- define "argosy.valkeyUrl" -}}
{{- printf "redis://%s@%s-valkey.%s.svc:6379/0" .login (include "argosy.fullname" .root) .root.Release.Namespace -}}
{{- end -}}

{{/* redis.url, and in it Sentinels and the certificates to trust: so they come wherever the URL comes, without a file. */}}
{{- define "argosy.redisUrl" -}}
{{- $more := list -}}
{{- with .Values.redis.sentinels }}{{ $more = append $more (printf "sentinels=%s" (join "," .)) }}{{ end -}}
{{- with .Values.redis.ca }}{{ $more = append $more (printf "ssl_ca_data=%s" (urlquery .)) }}{{ end -}}
{{- .Values.redis.url -}}
{{- with $more }}{{ ternary "&" "?" (contains "?" $.Values.redis.url) }}{{ join "&" . }}{{ end -}}
{{- end -}}

{{/* The URL that routers use of a Redis of one's own: the operator makes this user, who may only read. */}}
{{- define "argosy.redisRouterUrl" -}}
{{- $password := sha256sum (printf "argosy-router %s" .Values.redis.url) -}}
{{- $url := urlParse (include "argosy.redisUrl" .) -}}
{{- $_ := set $url "userinfo" (printf "argosy-router:%s" $password) -}}
{{- urlJoin $url -}}
{{- end -}}

{{/* Peers of a NetworkPolicy that may read metrics: the operator, and what values.yaml names. */}}
{{- define "argosy.metricsPeers" -}}
{{- include "argosy.peer" (dict "root" . "component" "operator") }}
{{- with .Values.networkPolicy.metricsFrom }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The pods of a component as a peer, from whatever namespace. Argument: dict "root" $ "component" "router" */}}
{{- define "argosy.peer" -}}
- namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ .root.Release.Namespace }}}}
  podSelector:
    matchLabels: {{- include "argosy.selectorLabels" . | nindent 6 }}
{{- end -}}

{{/* Who may talk to workers: routers to serve, the operator to ask for their state, others for metrics. The kubelet always may. */}}
{{- define "argosy.workerIngress" -}}
ingress:
  - ports: [{port: grpc, protocol: TCP}]
    from: {{- include "argosy.peer" (dict "root" . "component" "router") | nindent 6 }}
  - ports: [{port: metrics, protocol: TCP}]
    from: {{- include "argosy.metricsPeers" . | nindent 6 }}
{{- end -}}

{{/* Where workers may go, as peers of a NetworkPolicy by what is there; the operator knows the ports. */}}
{{- define "argosy.workerEgress" -}}
{{- $to := .Values.networkPolicy.workersTo -}}
dns: {{ toJson (default list $to.dns) }}
{{- if .Values.valkey.enabled }}
redis: {{- include "argosy.peer" (dict "root" . "component" "valkey") | nindent 2 }}
{{- else }}
redis: {{ toJson (default list $to.redis) }}
{{- end }}
downloads: {{ toJson (default list $to.downloads) }}
{{- end -}}

{{/* Certificates of the routers' ports, mounted in directories, which the routers read again. Argument: the root. */}}
{{- define "argosy.tlsVolumes" -}}
{{- $all := dict "tls" .Values.router.tls "picker-tls" .Values.router.picker.tls -}}
{{- range $name, $tls := $all }}
{{- with $tls.secretName }}
- name: {{ $name }}
  secret: {secretName: {{ . }}}
{{- end }}
{{- with $tls.clientCASecretName }}
- name: {{ $name }}-clients
  secret: {secretName: {{ . }}, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}
{{- end }}
{{- end -}}

{{/* Contradictions that a schema cannot see. */}}
{{- define "argosy.validate" -}}
{{- $auto := .Values.router.autoscaling -}}
{{- if gt (int $auto.minReplicas) (int $auto.maxReplicas) -}}
{{- fail (printf "router.autoscaling.minReplicas is %v, more than maxReplicas, which is %v" $auto.minReplicas $auto.maxReplicas) -}}
{{- end -}}
{{- if and .Values.router.picker.inferencePool.enabled (not .Values.router.picker.enabled) -}}
{{- fail "router.picker.inferencePool.enabled needs router.picker.enabled: a pool names its picker" -}}
{{- end -}}
{{- if and .Values.router.tls.clientCASecretName (not .Values.router.tls.secretName) -}}
{{- fail "router.tls.clientCASecretName needs router.tls.secretName: without TLS no client shows a certificate" -}}
{{- end -}}
{{- if and .Values.router.picker.tls.clientCASecretName (not .Values.router.picker.tls.secretName) -}}
{{- fail "router.picker.tls.clientCASecretName needs router.picker.tls.secretName: without TLS no gateway shows a certificate" -}}
{{- end -}}
{{- if and .Values.router.picker.tls.secretName (not .Values.router.picker.enabled) -}}
{{- fail "router.picker.tls.secretName needs router.picker.enabled: else there is no such port" -}}
{{- end -}}
{{- if and .Values.externalMetrics.enabled .Values.kedaScaler.enabled -}}
{{- fail "externalMetrics.enabled and kedaScaler.enabled are both true: KEDA itself provides external.metrics.k8s.io, and a cluster has one provider of it" -}}
{{- end -}}
{{- if and .Values.redis.ca (not (hasPrefix "rediss://" .Values.redis.url)) -}}
{{- fail "redis.ca is set, but redis.url does not begin with rediss://: without TLS it says nothing, and a Secret of your own has its URL with ssl_ca_data in it" -}}
{{- end -}}
{{- if and .Values.valkey.enabled (or .Values.redis.url .Values.redis.existingSecret.name) -}}
{{- fail "redis.url or redis.existingSecret is set, but valkey.enabled is true: set valkey.enabled=false to use your own Redis" -}}
{{- end -}}
{{- if and .Values.redis.sentinels (not .Values.redis.url) -}}
{{- fail "redis.sentinels is set without redis.url: set valkey.enabled=false and redis.url=redis://user:password@MASTER/0; the URL in a Secret of your own has its Sentinels in it" -}}
{{- end -}}
{{- if and .Values.redis.url .Values.redis.existingSecret.name -}}
{{- fail "redis.url and redis.existingSecret.name are both set: remove one of them" -}}
{{- end -}}
{{- if and .Values.redis.url (eq .Values.redis.access "perNamespace") (not (regexMatch "^rediss?://[^/?#]*:[^/?#]+@" .Values.redis.url)) -}}
{{- fail "redis.url has no password, so everybody reads and writes that Redis, whatever users it has: give it one, or set redis.access=shared" -}}
{{- end -}}
{{- end -}}
