"""argosy.v1: generated from worker.proto (make generate)."""
