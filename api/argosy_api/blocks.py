"""Block identity: a chained hash, so that an id means the same prefix in every process of the platform.

    root     = BLAKE2b-128("argosy-block" || version || len(x) || x, for x in fingerprint, adapter, salt)
    id_i     = BLAKE2b-128(id_{i-1} || tokens_i as little-endian u32),   id_{-1} = root

Only full blocks have ids. The version is part of the root, so two versions never share an id.
"""

import functools
import hashlib
import struct
import sys
from array import array
from collections.abc import Iterator, Sequence

VERSION = 1
ID_BYTES = 16
DEFAULT_BLOCK_SIZE = 16

BlockId = bytes


@functools.lru_cache(maxsize=1024)
def root_id(fingerprint: str, *, adapter: str = "", salt: str = "") -> BlockId:
    """The id before the first block: which weights, which adapter, which tenant's salt. 16 bytes."""
    digest = hashlib.blake2b(b"argosy-block" + struct.pack("<I", VERSION), digest_size=ID_BYTES)
    for part in (fingerprint, adapter, salt):
        raw = part.encode()
        digest.update(struct.pack("<I", len(raw)) + raw)
    return digest.digest()


def next_id(parent: BlockId, tokens: Sequence[int]) -> BlockId:
    """The id of one full block after `parent`. `tokens` are the block's token ids (each < 2**32)."""
    return hashlib.blake2b(parent + _packed(tokens), digest_size=ID_BYTES).digest()


def block_ids(root: BlockId, tokens: Sequence[int], block_size: int = DEFAULT_BLOCK_SIZE) -> list[BlockId]:
    """Ids of all full blocks of `tokens`, in order; a partial last block has none."""
    return list(iter_block_ids(root, tokens, block_size))


def iter_block_ids(root: BlockId, tokens: Sequence[int], block_size: int) -> Iterator[BlockId]:
    """Like `block_ids`, lazily: a caller may stop at the first miss."""
    packed, width, parent = _packed(tokens), 4 * block_size, root
    for end in range(width, len(packed) + 1, width):
        parent = hashlib.blake2b(parent + packed[end - width : end], digest_size=ID_BYTES).digest()
        yield parent


def _packed(tokens: Sequence[int]) -> bytes:
    words = array("I", tokens)
    if words.itemsize != 4:  # not the case on any platform that torch supports
        raise RuntimeError("array('I') is not 32 bits wide here")
    if sys.byteorder == "big":
        words.byteswap()
    return words.tobytes()
