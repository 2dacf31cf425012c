"""How many tokens of each draft are right, found on the device that drew them: the rule of `core.batch.accepted`.

A token that was drawn after `i` drafted ones counts while these were right. So nobody waits for the tokens to compare
them: what each draft came to is copied to the host with them.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from argosy_worker.core.batch import SequenceSlice
from argosy_worker.sampling.rows import Row, tried

NOBODY = -1
"""Stands for a drafted token where there is none: what is drawn never equals it."""


def guesses(slices: Sequence[SequenceSlice], rows: Sequence[Row]) -> npt.NDArray[np.int64] | None:
    """What the drafts of a step say, for `right`: int64 [2, drafts, longest]; None where no slice has one.

    First the row, among all that are sampled, after which a token was drafted, then that token. `rows`: those that are
    sampled, one slice after another. Drafts end before a row that is `stuck`: nothing is drawn there.
    """
    drafts = [(begin, draft) for s, (begin, _, draft) in zip(slices, tried(slices, rows), strict=True) if s.draft]
    if not drafts:
        return None
    longest = max(s.draft for s in slices)
    found = np.full((2, len(drafts), longest), NOBODY, dtype=np.int64)
    for i, (begin, draft) in enumerate(drafts):
        found[0, i] = begin
        found[0, i, : len(draft)] += np.arange(len(draft))
        found[1, i, : len(draft)] = draft
    return found


def right(tokens: Tensor, guessed: Tensor) -> Tensor:
    """How many tokens of each draft are right, those before its first wrong one: int64 [drafts]. Waits for nothing.

    `tokens`: int64 [rows], those that were drawn. `guessed`: `guesses`, on the same device.
    """
    rows, draft = guessed[0], guessed[1]
    drawn = tokens.index_select(0, rows.reshape(-1)).view(rows.shape)
    count: Tensor = (drawn == draft).cumprod(-1).sum(-1)
    return count
