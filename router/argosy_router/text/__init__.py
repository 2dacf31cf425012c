"""Text of a model: chat templates and tokenizers."""
