"""The operator: InferenceDeployments to Kubernetes objects."""
