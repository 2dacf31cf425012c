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
    resources: [deployments, statefulsets]
    verbs: [get, list, watch, create, patch, delete]
  - apiGroups: [apps]
    resources: [controllerrevisions]    # former revisions, to go back to
    verbs: [get, list, watch, create, patch, delete]
  - apiGroups: [batch]
    resources: [jobs]                   # of spec.placement.prefetch
    verbs: [get, list, watch, create, patch, delete]
  - apiGroups: [""]
    resources: [services, serviceaccounts]
    verbs: [get, list, watch, create, patch, delete]
  - apiGroups: [policy]
    resources: [poddisruptionbudgets]
    verbs: [get, list, watch, create, patch, delete]
  - apiGroups: [networking.k8s.io]
    resources: [networkpolicies]
    verbs: [get, list, watch, create, patch, delete]
  - apiGroups: [""]
    resources: [secrets]
    # the Redis URL of a resource's workers. get: whose it is, before it is changed or deleted (a patch answers with the
    # whole Secret as well, so this is no further right); without list and watch nobody can look for other Secrets
    verbs: [get, create, patch, delete]
  - apiGroups: [""]
    resources: [configmaps]             # the list of a resource's adapters; nobody can look for others here, either
    verbs: [get, create, patch, delete]
  - apiGroups: [""]
    resources: [pods]
    verbs: [list, watch, patch, delete]  # patch: annotations (cost, adapters); delete: a group's pods
  - apiGroups: [""]
    resources: [pods/status]
    verbs: [patch]                      # the condition argosy.dev/routable
  - apiGroups: [""]
    resources: [events]
    verbs: [list, create]               # list: the kubelet's own words about a volume that does not mount
  {{- if not .Values.watchNamespaces }}
  - apiGroups: [""]
    resources: [nodes]                  # of spec.placement.prefetch: which there are
    verbs: [list]
  - apiGroups: [apiextensions.k8s.io]
    resources: [customresourcedefinitions]
    verbs: [list, watch]
  {{- end }}
{{- end -}}
