"""Open Inference Protocol v2: generated from inference.proto (make generate)."""
