"""Where an answer is in its grammar, held by a few copies of one matcher.

A matcher gives its latest mask again in 4 us while the state is that mask's, and makes another one in up to 300. Where
an answer goes back and forth between a few states, in a word and between two, it would make nearly each mask anew. So
the copies are left where they were last asked, and each new mask is asked of the one whose latest is likely to be it.
All of them go over the same tokens: whoever is asked gives the same mask, and only the time differs.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance import LLMatcher

COPIES = 3
"""Of a matcher, at most, each some 10 kB: two answer half of a pattern's masks from memory, three nearly all, and four
no more."""
MOST_HABITS = 1024
"""Kept of a grammar."""
_NONE = -1


class Habits:
    """Which mask came after which mask and token, in all answers of a grammar; masks by number. Of one thread."""

    def __init__(self) -> None:
        self._next: dict[tuple[int, int], int] = {}

    def after(self, mask: int, token: int) -> int | None:
        """The mask that came last time."""
        return self._next.get((mask, token))

    def note(self, mask: int, token: int, came: int) -> None:
        """Remember what came."""
        if len(self._next) >= MOST_HABITS:
            self._next.clear()
        self._next[mask, token] = came


class Matchers:
    """As the module says. Owned by one thread."""

    def __init__(self, first: "LLMatcher", habits: Habits) -> None:
        """`first`: one of nobody else's, before the first token."""
        self.taken: list[int] = []
        """Tokens that were gone over."""
        self._habits = habits
        self._copies = [first]
        self._places = [0]
        """How many of `taken` each copy has gone over; the one that is asked, all of them."""
        self._latest = [_NONE]
        """Each copy's latest mask."""
        self._asked = 0
        self._turns = [0]
        """Copies; the one that was asked longest ago comes first."""

    def step(self, token: int) -> bool:
        """Go over a token; whether the grammar lets it follow. If not, there is no way on."""
        if not self._copies[self._asked].consume_token(token):
            return False
        self.taken.append(token)
        self._places[self._asked] += 1
        return True

    def back(self, count: int) -> bool:
        """Go back to the first `count` tokens; whether that was possible."""
        done = True
        for i, place in enumerate(self._places):
            if place > count:
                done = self._copies[i].rollback(place - count) and done
                self._places[i] = count
        del self.taken[count:]
        return done

    def mask(self) -> bytes:
        """What may follow: bit i is token i's. Means nothing where there is an `error` then."""
        before, token = self._latest[self._asked], self.taken[-1] if self.taken else _NONE
        likely = self._habits.after(before, token)
        if likely is not None and before not in (_NONE, likely):  # who has no mask yet has none to lose
            self._ask(self._with(likely))
        bits: bytes = self._copies[self._asked].compute_bitmask()
        came = hash(bits)
        self._latest[self._asked] = came
        self._habits.note(before, token, came)
        return bits

    @property
    def error(self) -> str:
        """What went wrong, for ever; empty for nothing."""
        matcher = self._copies[self._asked]
        return matcher.get_error() if matcher.is_error() else ""

    def _with(self, mask: int) -> int:
        """Whose latest mask this is, or else who can be spared."""
        if mask in self._latest:
            return self._latest.index(mask)
        if len(self._copies) == COPIES:
            return self._turns[0]
        self._copies.append(self._copies[self._asked].deep_copy())
        self._places.append(len(self.taken))
        self._latest.append(_NONE)
        self._turns.append(len(self._turns))
        return self._turns[-1]

    def _ask(self, copy: int) -> None:
        self._asked = copy
        self._turns.remove(copy)
        self._turns.append(copy)
        missed = self.taken[self._places[copy] :]
        if missed:
            self._copies[copy].consume_tokens(missed)  # what others went over; should it fail, there is an `error`
            self._places[copy] = len(self.taken)
