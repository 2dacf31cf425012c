"""The router: gRPC and OpenAI HTTP in front of the workers of all resources."""
