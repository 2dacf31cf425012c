"""Sets of holders, each of which has a number: millions of blocks are held by few different sets. Pure.

A holder is a mark, a power of two; a set is a sum of marks. That a holder holds nothing any more is said to all sets at
once, and to no block.
"""

from collections.abc import Iterable
from weakref import WeakSet

NOBODY = 0
"""The number of the empty set."""
MOST_SETS = 1 << 18
"""What would need one more is not noted: it costs hits, no memory."""
LEAST_COLLECTED = 4096


class Change:
    """What has been told of one block and is not in the arrays yet."""

    __slots__ = ("__weakref__", "less", "more", "new")

    def __init__(self, more: int, less: int, new: int) -> None:
        self.more = more
        """Marks that hold it now."""
        self.less = less
        """Marks that do so no more."""
        self.new = new
        """Marks of which it was told first that they hold it: before that they did not, if nothing was told twice."""

    def of(self, mask: int) -> int:
        """What becomes of a set."""
        return mask & ~self.less | self.more

    @property
    def counted(self) -> tuple[int, int]:
        """Marks that were given the block more than they had, and less."""
        return self.more & self.new, self.less & ~self.new


NOTHING = Change(0, 0, 0)


class Steps(dict[Change, Change]):
    """From a change to the same with one mark more, or less."""

    def __init__(self, changes: "Changes", mark: int, *, more: bool) -> None:
        super().__init__()
        self._changes, self._mark, self._more = changes, mark, more

    def __missing__(self, change: Change) -> Change:
        mark, new = self._mark, change.new
        if (change.more if self._more else change.less) & mark:
            self[change] = change  # told twice: no news, even where an equal one is another object
            return change
        if self._more and not (change.more | change.less) & mark:
            new |= mark
        more, less = change.more & ~mark, change.less & ~mark
        if self._more:
            more |= mark
        else:
            less |= mark
        made = self[change] = self._changes.one(more, less, new)
        return made


class Changes:
    """All changes that are under way; equal ones are one object."""

    def __init__(self) -> None:
        self._all: WeakSet[Change] = WeakSet()
        self._known: dict[tuple[int, int, int], Change] = {}
        self._steps: dict[tuple[int, bool], Steps] = {}

    def one(self, more: int, less: int, new: int) -> Change:
        """The change that is this."""
        found = self._known.get((more, less, new))
        if found is None:
            found = self._known[more, less, new] = Change(more, less, new)
            self._all.add(found)
        return found

    def steps(self, mark: int, *, more: bool) -> Steps:
        """Change -> that with the mark more (or less)."""
        if len(self._known) > MOST_SETS:
            self._known, self._steps = {}, {}  # equal ones may be two objects from now on
        found = self._steps.get((mark, more))
        if found is None:
            found = self._steps[mark, more] = Steps(self, mark, more=more)
        return found

    def clear(self, mark: int) -> None:
        """No change is about this mark any more."""
        self._known, self._steps = {}, {}
        for change in self._all:
            change.more &= ~mark
            change.less &= ~mark
            change.new &= ~mark
            self._known[change.more, change.less, change.new] = change


class Holders:
    """Numbers of sets."""

    def __init__(self) -> None:
        self.masks: list[int] = [0]
        """By number: the sum of the marks."""
        self._numbers: dict[int, int] = {0: NOBODY}
        self._free: list[int] = []
        self._made = 0  # since `keep`

    def number(self, mask: int, *, instead: int) -> int:
        """The number of a set; `instead` where there is no room for another one."""
        found = self._numbers.get(mask)
        if found is not None:
            return found
        self._made += 1
        if self._free:
            found = self._free.pop()
            self.masks[found] = mask
        elif len(self.masks) < MOST_SETS:
            found = len(self.masks)
            self.masks.append(mask)
        else:
            return instead
        self._numbers[mask] = found
        return found

    def clear(self, mark: int) -> None:
        """Nothing is held by `mark` any more. O(number of sets)."""
        self.masks = [mask & ~mark for mask in self.masks]
        self._numbers = {mask: number for number, mask in reversed([*enumerate(self.masks)])}

    @property
    def crowded(self) -> bool:
        """Whether it is time to `keep` only those in use."""
        return self._made > max(LEAST_COLLECTED, len(self.masks) // 2)

    def keep(self, used: Iterable[bool]) -> None:
        """Numbers that are not used are given to others from now on. `used`: by number."""
        self._made = 0
        kept = [use or number == NOBODY for number, use in enumerate(used)]
        self._numbers = {m: n for n, m in reversed([*enumerate(self.masks)]) if kept[n]}
        self._free = [number for number, use in enumerate(kept) if not use]
