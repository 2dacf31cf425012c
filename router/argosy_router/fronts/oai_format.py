"""OpenAI answers: usage. No I/O."""

from typing import Any


def usage(prompt: int, cached: int, completion: int) -> dict[str, Any]:
    """The usage object; `cached` of the prompt tokens came from the prefix cache."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
