"""The worker: the engine and its gRPC server."""
