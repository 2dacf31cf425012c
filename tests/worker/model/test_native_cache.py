"""The cache of the native kernels: what goes out comes in as it was, and nothing comes in that is no number."""

import numpy as np
import pytest

from argosy_worker.compute.attention.backend import LAYOUT_VERSION, KvSpec
from argosy_worker.compute.native.cache import ELEMENTS, NativeKvCache

FLOATS = ("fp16", "fp32")


def cache(kind):
    return NativeKvCache(
        KvSpec(layers=3, kv_heads=2, head_dim=32, block_size=16, dtype=kind, layout_version=LAYOUT_VERSION), 4
    )


def content(one, kind):
    """Of a block: numbers of all sizes, and for int8 scales behind them."""
    count = 3 * 2 * 2 * 16 * 32
    rng = np.random.default_rng(1)
    if kind == "int8":
        scales = rng.random(count // 32, dtype=np.float32)
        return rng.integers(-127, 128, count, dtype=np.int8).tobytes() + scales.tobytes()
    numbers = rng.standard_normal(count) * 10.0 ** rng.integers(-9, 4, count)
    numbers[:2] = np.finfo(ELEMENTS[kind]).max, np.finfo(ELEMENTS[kind]).min
    return numbers.astype(ELEMENTS[kind]).tobytes()


@pytest.mark.parametrize("kind", ELEMENTS)
def test_what_comes_in_goes_out_unchanged(kind):
    one = cache(kind)
    given = content(one, kind)
    one.import_(3, given)
    assert one.export(3) == given
    assert all(not any(one.export(block)) for block in (1, 2, 4))


@pytest.mark.parametrize("threads", [1, 3])
def test_memory_that_is_taken_at_once_is_zeros(threads):
    spec = KvSpec(layers=3, kv_heads=2, head_dim=32, block_size=16, dtype="fp16", layout_version=LAYOUT_VERSION)
    one = NativeKvCache(spec, 7, touch=True, threads=threads)
    assert all(not any(one.export(block)) for block in range(1, 8))


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("place", [0, 777, -1])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_one_that_is_no_number_becomes_0_and_one_that_is_infinite_the_largest(kind, place, value):
    one = cache(kind)
    numbers = np.frombuffer(content(one, kind), dtype=ELEMENTS[kind]).copy()
    numbers[place] = value
    one.import_(2, numbers.tobytes())
    numbers[place] = 0 if np.isnan(value) else np.copysign(np.finfo(ELEMENTS[kind]).max, value)
    assert one.export(2) == numbers.tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_a_scale_that_is_none_makes_no_number_infinite(value):
    one = cache("int8")
    whole = content(one, "int8")
    scales = np.frombuffer(whole[3 * 2 * 2 * 16 * 32 :], dtype=np.float32).copy()
    scales[5] = value
    one.import_(1, whole[: 3 * 2 * 2 * 16 * 32] + scales.tobytes())
    found = np.frombuffer(one.export(1)[3 * 2 * 2 * 16 * 32 :], dtype=np.float32)
    assert np.isfinite(found * np.float32(127)).all()
    assert (found >= 0).all()
    assert np.delete(found, 5).tobytes() == np.delete(scales, 5).tobytes()
