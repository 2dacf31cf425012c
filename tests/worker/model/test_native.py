"""The native kernels: right, the same bits on every instruction set, and each row by itself."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from argosy_api.errors import ModelUnsupportedError
from argosy_worker.compute.attention.cache import PagedKvCache
from argosy_worker.compute.attention.kv_types import KV_TYPES
from argosy_worker.compute.config import Clamp, Dense, Experts, Full, LayerSpec, Window
from argosy_worker.compute.layer import LayerWeights, Step, TorchLayer
from argosy_worker.compute.mlp import DenseMlp
from argosy_worker.compute.native import library
from argosy_worker.compute.native.arena import Arena
from argosy_worker.compute.native.crew import Crew
from argosy_worker.compute.native.layer import NativeLayers, joined, parts_of
from argosy_worker.compute.native.linear import NativeLinear, NativeLinears
from argosy_worker.compute.native.packing import pack
from argosy_worker.compute.native.probe import Probe
from argosy_worker.compute.probe import pattern
from argosy_worker.compute.quant.formats import QuantTensor, from_bytes, from_plain
from argosy_worker.compute.quant.linear import LinearSpec
from argosy_worker.compute.quant.precision import OWN, OwnForm, own_form, resolve
from argosy_worker.compute.rope import Rotations
from argosy_worker.compute.rope_spec import Rope
from argosy_worker.compute.rowcheck import RowCheck
from argosy_worker.core.batch import SequenceSlice
from argosy_worker.core.layout import make_layout

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="there was no compiler to build them with")
HIDDEN, HEADS, KV_HEADS, FFN = 96, 3, 1, 160
ROPE = Rope(10000.0, 32)
SPEC = LayerSpec(
    hidden=HIDDEN, heads=HEADS, kv_heads=KV_HEADS, head_dim=32, ffn=FFN, rms_eps=1e-5, rope=ROPE, attention=Full(),
    scale=32**-0.5, mlp=Dense(),
)  # fmt: skip


def instruction_sets():
    loaded = library.load()
    return [n for n in library.NAMES if loaded and loaded.argosy_kernels(n.encode())]


def matrix(kind, rows, cols, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if kind == "F32":
        return from_plain(torch.randn(rows, cols, generator=generator))
    if kind == "Q4_K":
        blocks = torch.randint(0, 256, (rows, cols // 256, 144), generator=generator, dtype=torch.uint8)
        halves = (torch.rand(rows, cols // 256, 2, generator=generator) / 50 - 0.01).half()
        blocks[..., :4] = halves.view(torch.uint8).view(rows, cols // 256, 4)
        return from_bytes(kind, blocks.flatten(), rows, cols)
    head = {"Q4_0": 1, "Q4_1": 2, "Q8_0": 1}[kind]
    width = {"Q4_0": 18, "Q4_1": 20, "Q8_0": 34}[kind]
    raw = torch.randint(0, 256, (rows, cols // 32, width), generator=generator, dtype=torch.uint8)
    halves = (torch.rand(rows, cols // 32, head, generator=generator) - 0.5).half()
    raw[..., : 2 * head] = halves.view(torch.uint8).view(rows, cols // 32, 2 * head)
    return from_bytes(kind, raw.flatten(), rows, cols)


def made(crew, parts, bias=None):
    spec = LinearSpec(
        role="o", formats=tuple(p.format for p in parts), in_features=parts[0].cols, out_features=sum(p.rows for p in parts),
        weights=OWN, group=0, compute="int8", device="cpu", isa=frozenset(),
    )  # fmt: skip
    kernel = NativeLinears(crew)
    assert kernel.can_run(spec).ok
    return kernel.pack(spec, parts, bias, torch.device("cpu"))


def rounded(x):
    """Activations as the kernels hold them."""
    blocks = x.view(len(x), -1, 32)
    by = 127 / blocks.abs().amax(-1, keepdim=True)
    return ((blocks * by).round() / by).view(x.shape)


def with_rest(weights):
    """Queries, keys and values of what 8 bits leave of the activations' coarse blocks, too, as in a native layer."""
    once = weights.qkv
    bias = once(torch.zeros(1, once.struct.inputs))

    def rest(x):
        scales = x.reshape(len(x), -1, 32).abs().amax(-1, keepdim=True)
        coarse = scales >= 1.3 * scales.mean(1, keepdim=True)  # as argosy_cpu.h says
        return ((x - rounded(x)).reshape(len(x), -1, 32) * coarse).reshape(x.shape)

    object.__setattr__(weights, "qkv", lambda x: once(x) + once(rest(x)) - bias)


def test_they_were_built():
    assert library.kernels() in instruction_sets()
    assert "portable" in instruction_sets()


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q4_K", "Q8_0", "F32"])
@pytest.mark.parametrize("name", library.NAMES)
def test_products_are_right_and_the_same_everywhere(kind, name):
    """Against fp64, with bias, for rows alone and in company, on one thread and on two."""
    if name not in instruction_sets():
        pytest.skip(f"this processor has no {name}")
    inputs = 256 if kind == "Q4_K" else 160
    parts = [matrix(kind, 48, inputs, 1), matrix(kind, 16, inputs, 2)]
    # always the same: where an activation lies between two codes to within a bit, torch may round it to the other one
    generator = torch.Generator().manual_seed(11)
    bias, x = torch.randn(64, generator=generator), torch.randn(19, inputs, generator=generator)
    linear = made(Crew(2, name), parts, bias)
    held = torch.cat([p.dequantize() for p in parts]).double()
    found = linear(x)
    near = 1e-2 if kind == "F32" else 1e-5  # what has no form of its own is rounded to 8 bits
    assert (found - (rounded(x).double() @ held.T + bias)).abs().max() <= near * (held.abs() @ x.double().abs().T).max()
    assert torch.equal(made(Crew(1, "portable"), parts, bias)(x), found)
    for first, count in ((0, 1), (3, 5), (7, 12), (18, 1), (2, 6)):
        assert torch.equal(linear(x[first : first + count]), found[first : first + count])
    assert RowCheck(2, budget_s=60).rows(linear, inputs) is None


def test_numbers_of_the_checkpoint_are_kept():
    """Products with unit vectors show the weights: those of 4 and 8 bits exactly as they were."""
    for kinds in (("Q4_0",), ("Q4_1",), ("Q8_0",), ("Q4_K",), ("Q4_0", "Q4_1"), ("Q4_K", "Q4_0", "Q4_1")):
        parts, one_hot = [matrix(kind, 32, 256) for kind in kinds], torch.eye(256)
        held = torch.cat([part.dequantize() for part in parts])
        assert torch.allclose(made(Crew(1), parts)(one_hot).T, held, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("formats", "form", "size"),
    [
        (["Q4_0", "Q4_1"], (4, 16), 20), (["Q4_K"], (4, 32), 24), (["Q4_1", "Q4_K"], (4, 32), 24),
        (["Q4_1", "Q8_0"], (8, 16), 34), (["Q4_K", "Q6_K"], (8, 16), 34),
    ],
)  # fmt: skip
def test_what_is_held_in_4_bits(formats, form, size):
    assert own_form(formats) == form
    assert own_form(formats).block_bytes == size


def test_a_row_that_is_no_number_spoils_itself_alone():
    linear = made(Crew(2), [matrix("Q4_1", 32, 64)])
    x = torch.randn(6, 64)
    whole = linear(x)
    for bad in (torch.nan, torch.inf, -torch.inf):
        ill = x.clone()
        ill[2, 40] = bad
        found = linear(ill)
        assert found[2].isnan().all()
        assert torch.equal(found[[0, 1, 3, 4, 5]], whole[[0, 1, 3, 4, 5]])
    assert torch.equal(linear(torch.zeros(1, 64)), torch.zeros(1, 32))


@pytest.mark.parametrize(("inputs", "outputs"), [(48, 32), (64, 24)])
def test_other_shapes_are_left_to_others(inputs, outputs):
    spec = LinearSpec(
        role="o", formats=("F32",), in_features=inputs, out_features=outputs, weights=OWN, group=0, compute="int8",
        device="cpu", isa=frozenset(),
    )  # fmt: skip
    verdict = NativeLinears(Crew(1)).can_run(spec)
    assert not verdict.ok
    assert "no multiples" in verdict.reason


def test_packed_rows_may_come_from_several_parts():
    parts = [matrix("Q8_0", 40, 64, 1), matrix("Q8_0", 8, 64, 2)]
    together = QuantTensor("Q8_0", torch.cat([p.raw for p in parts]), 64)
    assert np.array_equal(pack(parts, OwnForm(8, 16), 32, Arena()), pack([together], OwnForm(8, 16), 32, Arena()))


# --- layers


class Rig:
    """Two layers over a cache, on the native kernels or on torch."""

    def __init__(self, crew, attention=None, layers=2, *, native=True, kv="fp32"):
        self.spec = SPEC if attention is None else LayerSpec(**{**dict(_fields(SPEC)), "attention": attention})
        self.layers = []
        for number in range(layers):

            def part(rows, cols, seed, of=number):
                return matrix("Q4_1", rows, cols, 10 * of + seed)

            linears = [
                made(crew, [part((HEADS + 2 * KV_HEADS) * 32, HIDDEN, 1)]), made(crew, [part(HIDDEN, HEADS * 32, 2)]),
                made(crew, [part(2 * FFN, HIDDEN, 3)]), made(crew, [part(HIDDEN, FFN, 4)]),
            ]  # fmt: skip
            weights = LayerWeights(
                qkv=linears[0], o=linears[1], mlp=DenseMlp(linears[2], linears[3], "silu"),
                attn_norm=torch.rand(HIDDEN) + 0.5, mlp_norm=torch.rand(HIDDEN) + 0.5,
            )  # fmt: skip
            kind = NativeLayers().pack if native else TorchLayer
            self.layers.append(kind(self.spec, number, weights))
        self.cache = PagedKvCache(layers=layers, blocks=40, block_size=16, kv_heads=KV_HEADS, head_dim=32,
                                  dtype=torch.float32, device=torch.device("cpu"), kind=KV_TYPES[kv])  # fmt: skip

    def run(self, x, *slices):
        """x goes through; slices of (start, count, table)."""
        layout = make_layout(
            [
                SequenceSlice(
                    request_id="r", tokens=[0] * count, start=start, table=table, sample_rows=range(0), params=None
                )
                for start, count, table in slices
            ],
            16,
        )
        turned = Rotations(ROPE, torch.device("cpu"))(torch.from_numpy(layout.positions), torch.float32)
        step = Step({ROPE: turned}, SimpleNamespace(layout=layout, cache=self.cache))
        x = x.clone()
        for layer in joined(self.layers):
            x = layer(x, step)
        return x


def _fields(spec):
    return [(name, getattr(spec, name)) for name in spec.__dataclass_fields__]


@pytest.mark.parametrize("kv", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("attention", [None, Window(20)])
def test_layers_are_the_same_on_every_instruction_set_and_however_they_are_cut(attention, kv):
    torch.manual_seed(0)
    x, table, other = torch.randn(70, HIDDEN), [3, 1, 4, 9, 5], [2, 6, 7, 8, 10]
    seen = []
    for name in instruction_sets():
        for threads in (1, 2):
            torch.manual_seed(1)
            rig = Rig(Crew(threads, name), attention, kv=kv)
            assert len(joined(rig.layers)) == 1
            whole = rig.run(x, (0, 70, table))
            seen.append(whole)
            cut = [rig.run(x[a:b], (a, b - a, other)) for a, b in ((0, 1), (1, 17), (17, 18), (18, 60), (60, 70))]
            assert torch.equal(torch.cat(cut), whole)
            both = rig.run(torch.cat((x[:30], x)), (0, 30, [11, 12]), (0, 70, [20, 21, 22, 23, 24]))
            assert torch.equal(both, torch.cat((whole[:30], whole)))
    assert all(torch.equal(one, seen[0]) for one in seen)
    assert seen[0].isfinite().all()


@pytest.mark.parametrize("kv", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("attention", [None, Window(20)])
def test_what_a_row_does_not_see_may_be_no_number(attention, kv):
    """Left by whoever had the blocks before: what is hidden is left out, not multiplied by nothing."""
    x, table = torch.randn(40, HIDDEN, generator=torch.Generator().manual_seed(4)), [3, 1, 4]
    for name in instruction_sets():
        found = []
        for spoilt in (False, True):
            torch.manual_seed(1)
            rig = Rig(Crew(2, name), attention, kv=kv)
            for layer in range(2 if spoilt else 0):
                elements, scales = rig.cache.elements(layer), rig.cache.scales(layer)
                elements.fill_(127 if kv == "int8" else torch.nan)
                if scales is not None:
                    scales.fill_(torch.nan)
            found.append(torch.cat([rig.run(x[a:b], (a, b - a, table)) for a, b in ((0, 19), (19, 20), (20, 40))]))
        assert found[0].isfinite().all()
        assert torch.equal(*found)


@pytest.mark.parametrize("kv", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("attention", [Full(), Window(20)])
def test_layers_compute_what_torch_does(attention, kv):
    """Around the same linears; activations are rounded at the same places, so only the order of sums is another."""
    from argosy_worker.compute.attention import rows
    from argosy_worker.compute.attention.paged import PagedTorch

    x, table = torch.randn(50, HIDDEN), [1, 2, 3, 4]
    torch.manual_seed(1)
    native = Rig(Crew(2), attention, 1, kv=kv)
    torch.manual_seed(1)
    plain = Rig(Crew(1), attention, 1, native=False, kv=kv)
    with_rest(plain.layers[0]._weights)
    shape = rows.Shape(kv_heads=KV_HEADS, queries=HEADS, head_dim=32, tile=16)
    backend = PagedTorch(plain.cache, rows.choose(shape, 1)[0], [plain.spec])
    layout = make_layout(
        [SequenceSlice(request_id="r", tokens=[0] * 50, start=0, table=table, sample_rows=range(0), params=None)], 16
    )
    backend.prepare(layout)
    turned = Rotations(ROPE, torch.device("cpu"))(torch.from_numpy(layout.positions), torch.float32)
    expected = plain.layers[0](x.clone(), Step({ROPE: turned}, backend))
    found = native.run(x, (0, 50, table))
    assert (found - expected).norm() <= 2e-2 * expected.norm()  # a number in the middle may round the other way
    keys, values = native.cache.elements(0)[1:5].unbind(1)  # keys lie [head_dim, 16] there
    held = torch.stack((keys.reshape(4, KV_HEADS, 32, 16).mT, values), 1)
    off = 1 if kv == "int8" else 1e-3  # a code may be the next one
    assert torch.allclose(held.float(), plain.cache.elements(0)[1:5].float(), atol=off, rtol=1e-3)


@pytest.mark.parametrize(("kind", "size"), [("bf16", 16), ("fp8", 32), ("fp32", 8)])
def test_caches_of_another_kind_are_left_to_torch(kind, size):
    """Nothing is written that the cache does not have room for."""
    torch.manual_seed(1)
    rig = Rig(Crew(1), None, 2)
    cache = PagedKvCache(
        layers=2, blocks=4, block_size=size, kv_heads=KV_HEADS, head_dim=32, dtype=torch.float32,
        device=torch.device("cpu"), kind=KV_TYPES[kind],
    )  # fmt: skip
    asked = []
    backend = SimpleNamespace(layout=None, cache=cache, attend=lambda layer, q, k, v, sinks: asked.append(layer) or q)
    turned = Rotations(ROPE, torch.device("cpu"))(torch.arange(5), torch.float32)
    (layer,) = joined(rig.layers)
    assert layer(torch.randn(5, HIDDEN), Step({ROPE: turned}, backend)).isfinite().all()
    assert asked == [0, 1]
    assert not cache.elements(0).any()


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "block_size", "rotary", "kv"),
    [
        (4, 2, 64, 32, 64, "fp16"), (9, 3, 64, 16, 64, "int8"), (2, 2, 80, 16, 32, "fp16"), (6, 2, 96, 64, 96, "fp32"),
        (16, 1, 128, 128, 128, "fp16"), (5, 1, 128, 16, 64, "int8"), (3, 3, 256, 16, 256, "fp16"), (12, 1, 32, 16, 32, "int8"),
    ],
)  # fmt: skip
def test_every_shape_of_heads_is_the_same_however_it_is_computed(heads, kv_heads, head_dim, block_size, rotary, kv):  # noqa: PLR0917
    """Whole, cut, on every instruction set and on two threads; and near what torch computes."""
    from argosy_worker.compute.attention import rows
    from argosy_worker.compute.attention.paged import PagedTorch
    from argosy_worker.compute.attention.tiles import tile_size

    rope, width = Rope(10000.0, rotary), heads * head_dim
    spec = LayerSpec(
        hidden=64, heads=heads, kv_heads=kv_heads, head_dim=head_dim, ffn=96, rms_eps=1e-5, rope=rope, attention=Full(),
        scale=head_dim**-0.5, mlp=Dense(),
    )  # fmt: skip
    assert NativeLayers().can_run(spec).ok

    def layer_of(crew):
        linears = [made(crew, [matrix("Q8_0", r, c, i)]) for i, (r, c) in enumerate(
            [(width + 2 * kv_heads * head_dim, 64), (64, width), (192, 64), (64, 96)])]  # fmt: skip
        linears[0] = made(
            crew,
            [matrix("Q8_0", width + 2 * kv_heads * head_dim, 64)],
            torch.linspace(-1, 1, width + 2 * kv_heads * head_dim),
        )
        return LayerWeights(
            qkv=linears[0], o=linears[1], mlp=DenseMlp(linears[2], linears[3], "silu"),
            attn_norm=torch.linspace(0.5, 1.5, 64), mlp_norm=torch.linspace(1.5, 0.5, 64),
        )  # fmt: skip

    seen = []
    for name in instruction_sets():
        for threads in (1, 2):
            probe = Probe(spec, parts_of(layer_of(Crew(threads, name))), kv, block_size)
            seen += [torch.from_numpy(probe(parts)) for parts in ([(0, 33)], [(0, 1), (1, 16), (16, 17), (17, 33)])]
    assert all(torch.equal(one, seen[0]) for one in seen)
    blocks = -(-33 // block_size)
    cache = PagedKvCache(layers=1, blocks=blocks, block_size=block_size, kv_heads=kv_heads, head_dim=head_dim,
                         dtype=torch.float32, device=torch.device("cpu"), kind=KV_TYPES[kv])  # fmt: skip
    shape = rows.Shape(kv_heads=kv_heads, queries=heads // kv_heads, head_dim=head_dim, tile=tile_size(block_size))
    backend = PagedTorch(cache, rows.choose(shape, 1)[0], [spec])
    one = SequenceSlice(
        request_id="r", tokens=[0] * 33, start=0, table=list(range(1, blocks + 1)), sample_rows=range(0), params=None
    )
    backend.prepare(layout := make_layout([one], block_size))
    turned = Rotations(rope, torch.device("cpu"))(torch.from_numpy(layout.positions), torch.float32)
    weights = layer_of(Crew(1))
    with_rest(weights)
    expected = TorchLayer(spec, 0, weights)(pattern(33, 64), Step({rope: turned}, backend))
    assert (seen[0] - expected).norm() <= 3e-2 * expected.norm()


def test_a_kernel_that_is_not_there_is_refused(monkeypatch):
    for wrong in ("avx512", "AVX2", "neon"):
        monkeypatch.setenv(library.ISA, wrong)
        with pytest.raises(ModelUnsupportedError, match=f"{library.ISA} '{wrong}'.*portable, none"):
            library.kernels()
    monkeypatch.setenv(library.ISA, "portable")
    assert library.kernels() == "portable"
    monkeypatch.setenv(library.ISA, "none")
    assert not library.kernels()


def test_a_library_from_other_sources_is_left_alone(monkeypatch, tmp_path, caplog):
    (tmp_path / "kernels.inc").write_text("// of another day")
    monkeypatch.setattr(library, "SOURCES", tmp_path)
    assert library.load.__wrapped__() is None
    assert "install the package again" in caplog.text


def test_what_layers_are_not_for():
    kinds = {
        "sinks": {"sinks": True}, "experts": {"mlp": Experts(4, 2)}, "alpha=1.7": {"activation": Clamp(1.7, 7.0)},
        "heads of 48": {"head_dim": 48}, "rotary positions": {"rope": Rope(10000.0, 16)},
    }  # fmt: skip
    for word, change in kinds.items():
        verdict = NativeLayers().can_run(LayerSpec(**{**dict(_fields(SPEC)), **change}))
        assert not verdict.ok
        assert word in verdict.reason
    for change in (
        {},
        {"qk_norm": "head"},
        {"norms": "both"},
        {"softcap": 30.0},
        {"residual_scale": 0.5},
        {"rope": None},
    ):
        assert NativeLayers().can_run(LayerSpec(**{**dict(_fields(SPEC)), **change})).ok


def test_numbers_too_large_for_fp16_become_its_largest():
    """As on torch; keys and values near the least and the most that fp16 has, on every instruction set."""
    for name in instruction_sets():
        rig = Rig(Crew(1, name), None, 1, kv="fp16")
        hidden = torch.randn(16, HIDDEN) * torch.logspace(-9, 9, 16)[:, None]
        rig.layers[0].weights[0].attn_norm.fill_(1e6)
        assert rig.run(hidden, (0, 16, [1])).isfinite().all()
        held = rig.cache.elements(0)[1]
        assert held.isfinite().all()
        assert held.abs().max() == 65504


def test_auto_takes_them_where_they_are():
    assert resolve("auto", None, "auto", "cpu", integers=True, native=True).weights == OWN
    assert resolve("auto", None, "fp32", "cpu", integers=True, native=True).weights == "none"
    assert resolve("int8", None, "int8", "cpu", integers=True, native=True).weights == "int8"
    assert resolve("auto", None, "auto", "cuda", integers=False, native=True).weights == "none"


def test_linears_that_are_not_native_make_torch_layers():
    plain = torch.nn.Identity()
    weights = LayerWeights(qkv=plain, o=plain, mlp=DenseMlp(plain, plain, "silu"))
    assert isinstance(NativeLayers().pack(SPEC, 0, weights), TorchLayer)
    assert isinstance(made(Crew(1), [matrix("Q4_1", 16, 32)]), NativeLinear)
