"""What clients speak: OpenAI HTTP, Open Inference Protocol, the native gRPC service."""
