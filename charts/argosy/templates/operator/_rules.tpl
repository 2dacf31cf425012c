{{/* What the operator calls, and nothing else: tests/e2e/test_rights.py compares this with the calls that it makes. */}}
{{- define "argosy.operatorRules" -}}
rules:
  - apiGroups: [serving.argosy.dev]
    resources: [inferencedeployments]
    verbs: [list, watch, patch]         # patch: its finalizer
  - apiGroups: [serving.argosy.dev]
    resources: [inferencedeployments/status]
    verbs: [patch]
  - apiGroups: [serving.argosy.dev]
    resources: [inferencedeployments/finalizers]
    verbs: [update]                     # owner references that block deletion, where the API server checks them
  - apiGroups: [apps]
    resources: [deployments]
    verbs: [list, watch, create, patch, delete]
  - apiGroups: [""]
    resources: [services, serviceaccounts]
    verbs: [list, watch, create, patch, delete]
  - apiGroups: [policy]
    resources: [poddisruptionbudgets]
    verbs: [list, watch, create, patch, delete]
  - apiGroups: [""]
    resources: [secrets]
    verbs: [create, patch, delete]      # the Redis URL of a resource's workers; it can read no Secret
  - apiGroups: [""]
    resources: [pods]
    verbs: [list, watch]
  - apiGroups: [""]
    resources: [events]
    verbs: [list, create]               # list: the kubelet's own words about a volume that does not mount
  {{- if not .Values.watchNamespaces }}
  - apiGroups: [apiextensions.k8s.io]
    resources: [customresourcedefinitions]
    verbs: [list, watch]
  {{- end }}
{{- end -}}
