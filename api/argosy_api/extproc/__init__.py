"""KEDA's external scaler: generated from externalscaler.proto (make generate)."""
