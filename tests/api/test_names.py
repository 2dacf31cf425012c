"""Of several resources that want one served name the oldest has it, whatever the order they are seen in."""

from hypothesis import given
from hypothesis import strategies as st

from argosy_api.names import Claim, holders

_claims = st.builds(
    Claim,
    served_name=st.sampled_from(["llama", "qwen"]),
    created_at=st.sampled_from([1.0, 2.0, 3.0]),
    uid=st.uuids().map(str),
    namespace=st.sampled_from(["a", "b"]),
    name=st.sampled_from(["x", "y"]),
)


def test_the_older_keeps_it():
    older, younger = Claim("llama", 1.0, "z", "team-a", "x"), Claim("llama", 2.0, "a", "team-b", "y")
    assert holders([younger, older]) == {"llama": older}
    assert holders([younger]) == {"llama": younger}


def test_of_those_of_one_second_the_uid_decides():
    one, other = Claim("llama", 1.0, "a", "n", "x"), Claim("llama", 1.0, "b", "n", "y")
    assert holders([other, one])["llama"] == one


@given(st.lists(_claims), st.randoms())
def test_the_order_of_seeing_does_not_matter(claims, chance):
    shuffled = claims.copy()
    chance.shuffle(shuffled)
    assert holders(shuffled) == holders(claims)
    for claim in claims:
        assert holders(claims)[claim.served_name][1:] <= claim[1:]
