"""Block identity: chained, versioned, separated by fingerprint, adapter and salt."""

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_api import blocks

TOKENS = st.lists(st.integers(0, 2**32 - 1), max_size=100)


def test_ids_follow_the_documented_bytes():
    """A second implementation, from the module's docstring alone, gives the same ids."""
    root = hashlib.blake2b(
        b"argosy-block"
        + struct.pack("<I", 1)
        + b"".join(struct.pack("<I", len(p)) + p for p in (b"model", b"", b"salt")),
        digest_size=16,
    ).digest()
    assert blocks.root_id("model", salt="salt") == root
    tokens = list(range(1000, 1032))
    first = hashlib.blake2b(root + struct.pack("<16I", *tokens[:16]), digest_size=16).digest()
    second = hashlib.blake2b(first + struct.pack("<16I", *tokens[16:]), digest_size=16).digest()
    assert blocks.block_ids(root, tokens) == [first, second]


def test_ids_are_the_same_for_ever():
    """Workers and routers of different builds share ids: these bytes may change only with VERSION."""
    ids = blocks.block_ids(blocks.root_id("x"), list(range(40)))
    assert [i.hex() for i in ids] == ["4d55b30ff7e91e29b133b25391ee6012", "9f0eb7f4eb2258ca721fcb7aab65fd1e"]


@given(TOKENS, TOKENS, st.sampled_from([8, 16, 32]))
def test_a_common_prefix_has_common_ids_and_nothing_else_has(a, b, size):
    root = blocks.root_id("m")
    ids_a, ids_b = blocks.block_ids(root, a, size), blocks.block_ids(root, b, size)
    assert len(ids_a) == len(a) // size
    for i, (x, y) in enumerate(zip(ids_a, ids_b, strict=False)):
        assert (x == y) == (a[: (i + 1) * size] == b[: (i + 1) * size])


@given(TOKENS.filter(lambda t: len(t) >= 16))
def test_next_id_is_the_step_of_the_chain(tokens):
    root = blocks.root_id("m")
    ids = blocks.block_ids(root, tokens)
    assert ids[0] == blocks.next_id(root, tokens[:16])


def test_roots_are_separated():
    roots = {
        blocks.root_id("a"),
        blocks.root_id("b"),
        blocks.root_id("a", salt="b"),
        blocks.root_id("a", adapter="b"),
        blocks.root_id("ab"),
        blocks.root_id("a", salt="b", adapter="c"),
        blocks.root_id("a", salt="bc"),
    }
    assert len(roots) == 7


@pytest.mark.parametrize("token", [-1, 2**32])
def test_what_is_no_token_id_is_refused(token):
    with pytest.raises(OverflowError):
        blocks.next_id(blocks.root_id("m"), [token] * 16)
