"""What autoscaling goes by, for autoscalers that are not ours: external.metrics.k8s.io, and KEDA's external scaler."""
