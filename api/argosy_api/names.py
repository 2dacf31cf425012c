"""Whose a served name is, when several resources want the same. Pure; routers and the operator must agree."""

from collections.abc import Iterable
from typing import NamedTuple


class Claim(NamedTuple):
    """A resource wants to be known by a name. Compared in the order of the fields but the first: the least has it."""

    served_name: str
    created_at: float
    """When the resource was made: seconds since the epoch in a cluster, its place among the files in embedded mode."""
    uid: str
    """Decides between those of one second; empty in embedded mode."""
    namespace: str
    name: str


def holders(claims: Iterable[Claim]) -> dict[str, Claim]:
    """Who has each name: the oldest that wants it.

    `namespace/name` is not among them: it always means that resource, and no served name looks like it
    (`argosy_api.rules`).
    """
    found: dict[str, Claim] = {}
    for claim in claims:
        other = found.get(claim.served_name)
        if other is None or claim[1:] < other[1:]:
            found[claim.served_name] = claim
    return found
