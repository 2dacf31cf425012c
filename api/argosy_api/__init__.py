"""The contracts between Argosy's parts: resource types, protobuf, block identity, Redis keys, metrics, errors."""
