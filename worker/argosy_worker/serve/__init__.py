"""The worker's edges: command line, gRPC server, metrics, start and end."""
