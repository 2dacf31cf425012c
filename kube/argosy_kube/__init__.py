"""Access to a Kubernetes API server for the router and the operator: kubeconfig, HTTP, list and watch."""
