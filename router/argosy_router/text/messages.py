"""What a client may ask to be turned into tokens."""

Message = dict[str, str]
"""A chat message: `role` and `content`."""
ROLES = ("system", "developer", "user", "assistant")
Prompt = str | list[int]
"""A text, or token ids."""
