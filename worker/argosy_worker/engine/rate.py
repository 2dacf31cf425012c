"""How fast prompts are computed and blocks come from other workers, measured while serving."""

_HALF_LIFE_TOKENS = 4096
"""Prompt tokens after which an old measurement counts half."""

_KEPT_TRANSFERS = 0.7
"""What a transfer counts after the next one."""


class PrefillRate:
    """Exponentially weighted rate of prompt tokens per second.

    Steps mix prompts with generating rows. For those rows a mixed step is charged what a step of generating rows alone
    takes lately, at most half of it; the rest is the prompts' time. Weighted by tokens, so that many small steps count
    as few large ones.
    """

    def __init__(self) -> None:
        self.measured = 0.0
        """Tokens per second; 0 until a prompt was computed."""
        self._decode_step_s = 0.0
        self._tokens = 0.0
        self._seconds = 0.0

    def add(self, prompt_tokens: int, generating: int, seconds: float) -> None:
        """Take in one step."""
        if prompt_tokens == 0:
            if generating:
                weight = 0.1 if self._decode_step_s else 1.0
                self._decode_step_s += weight * (seconds - self._decode_step_s)
            return
        if generating:
            seconds -= min(self._decode_step_s, seconds / 2)
        keep = 0.5 ** (prompt_tokens / _HALF_LIFE_TOKENS)
        self._tokens = keep * self._tokens + prompt_tokens
        self._seconds = keep * self._seconds + seconds
        if self._seconds > 0:
            self.measured = self._tokens / self._seconds


class TransferRate:
    """Exponentially weighted rate of bytes per second, over transfers that came to their end."""

    def __init__(self) -> None:
        self.measured = 0.0
        """Bytes per second; 0 until something came."""
        self._bytes = 0.0
        self._seconds = 0.0

    def add(self, size: int, seconds: float) -> None:
        """`size` bytes came in so many seconds, the time to begin included."""
        self._bytes = _KEPT_TRANSFERS * self._bytes + size
        self._seconds = _KEPT_TRANSFERS * self._seconds + seconds
        if self._seconds > 0:
            self.measured = self._bytes / self._seconds
