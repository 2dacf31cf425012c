"""How far a download of several files is."""

from collections.abc import Callable

Progress = Callable[[str, float], None]
"""Called with a sentence and how much of it is done, 0 to 1."""
Moved = Callable[[int, int], None]
"""Called with the bytes that are there and those of all; 0: not known."""


class Meter:
    """Bytes of several files as one progress."""

    def __init__(self, progress: Progress, repo: str, total: int, moved: Moved) -> None:
        self._progress, self._repo, self._total, self._moved = progress, repo, total, moved
        self._before = 0
        self.done = 0

    def begin(self, there: int) -> None:
        """Another file, of which so many bytes are there."""
        self._moved(self._before + there, self._total)

    def next(self, size: int) -> None:
        """A file is there."""
        self._before += size
        self.report(0)

    def report(self, done: int) -> None:
        """Of the file that is under way so many bytes are there."""
        self.done = self._before + done
        self._moved(self.done, self._total)
        share = min(1.0, self.done / self._total) if self._total else 0.0
        mb = f"{self.done / 1e6:.0f} of {self._total / 1e6:.0f} MB"
        self._progress(f"downloading {self._repo} ({mb})", share)

    def wait(self) -> None:
        """Another worker is at it."""
        self._progress(f"waiting: another worker that shares this cache downloads {self._repo}", 0.0)
