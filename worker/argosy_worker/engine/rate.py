"""How fast prompts are computed and blocks come from other workers, measured while serving."""

from argosy_worker.engine.fit import Line

_HALF_LIFE_TOKENS = 4096
"""Prompt tokens after which an old measurement counts half."""

_KEPT_STEPS = 0.98
"""What a step of generating rows counts after the next one."""

_LATEST = 3.0
"""So many times what is usual a step of generating rows counts at most: a halt of the machine is no cost of a step."""

_FEW = 64
"""Prompt tokens below which a step's fixed cost is most of it, and from which it is little of it."""

_ENOUGH = 8
"""Steps with prompts from which a line through them says something."""

_LEAST = 1 / 64
"""Of the mean cost of a prompt token, that of a further one at least, whatever the noise says."""

_KEPT_TRANSFERS = 0.7
"""What a transfer counts after the next one."""


class PrefillRate:
    """How fast a long prompt would be computed, told from steps of whatever size.

        seconds of a step = fixed + a x generating rows + each x prompt tokens

    A step reads all weights, however few its tokens, so a prompt of four tokens takes almost as long as one of forty:
    tokens by time would say of a worker that saw small ones only that a large one takes very long. What generating rows
    cost is known from steps without prompts; `fixed` and `each` from steps with prompts of different sizes. Weighted by
    tokens, so that many small steps count as few large ones.
    """

    def __init__(self) -> None:
        self._rows, self._prompts = Line(), Line()
        self._alike = 0.0, 0.0
        """Tokens and their seconds, should all steps be alike."""

    def add(self, prompt_tokens: int, rows: int, seconds: float) -> None:
        """Take in one step: `rows` are the tokens of generating requests in it."""
        if prompt_tokens == 0:
            if rows:
                usual = self._generating(rows)
                self._rows.add(rows, min(seconds, _LATEST * usual) if usual else seconds, keep=_KEPT_STEPS)
            return
        keep = 0.5 ** (prompt_tokens / _HALF_LIFE_TOKENS)
        _, of_row = self._rows.fit() or (0.0, 0.0)
        self._prompts.add(prompt_tokens, max(seconds - of_row * rows, seconds / 2), keep=keep)
        shared = 0.0
        if rows:
            shared = min(self._generating(rows), seconds / 2)
        elif prompt_tokens < _FEW:
            shared = min(self._generating(1), seconds * 7 / 8)
        tokens, alone = self._alike
        self._alike = keep * tokens + prompt_tokens, keep * alone + seconds - shared

    def of_steps(self, tokens: int) -> float:
        """Tokens per second of a prompt that is computed in steps of so many tokens; 0 until a prompt was computed."""
        found = self._prompts.fit() if self._prompts.points >= _ENOUGH else None
        if found is None:
            count, seconds = self._alike
            return count / seconds if seconds > 0 else 0.0
        fixed, each = found
        mean_tokens, mean_seconds = self._prompts.mean
        return tokens / (fixed + tokens * max(each, _LEAST * mean_seconds / mean_tokens))

    def _generating(self, rows: int) -> float:
        """Seconds of a step with so many rows and no prompt, as far as steps of such rows were seen."""
        fixed, each = self._rows.fit() or (self._rows.mean[1], 0.0)
        return fixed + each * rows


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
